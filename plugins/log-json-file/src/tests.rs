use proptest::prelude::*;
use wharf_plugin_sdk::conformance::{self, Subject};
use wharf_plugin_sdk::mock::MockHost;
use wharf_plugin_sdk::types::{Code, ContainerRef, Labels};

use super::*;

#[test]
fn conforms() {
    conformance::codec(&Subject::<dyn Codec>::new(|| Box::new(JsonFile)));
}

fn source(options: &[(&str, &str)]) -> Source {
    let pairs = |pairs: &[(&str, &str)]| -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    Source {
        container: ContainerRef {
            id: "0123456789abcdef0123456789abcdef".into(),
            name: "/web".into(),
            hostname: "host".into(),
            image: "busybox:1".into(),
            image_digest: Some("sha256:fedcba9876543210fedc".into()),
            labels: pairs(&[("com.example.one", "1"), ("com.example.two", "<2>"), ("other", "3")]),
            group: None,
        },
        options: pairs(options),
        command: vec!["sh".into(), "-c".into(), "true".into()],
        environment: pairs(&[]),
        created: 0,
        daemon: "wharf".into(),
    }
}

fn open(options: &[(&str, &str)]) -> Result<String> {
    let format = MockHost::new().call(|host| JsonFile.open(host, &source(options)))?;
    Ok(String::from_utf8(format.cookie).unwrap())
}

fn line(text: &[u8], time: u64, mark: u8, cookie: &str) -> String {
    let chunk = Chunk {
        cookie: cookie.as_bytes().to_vec(),
        sequence: 1,
        times: vec![time],
        ends: vec![u32::try_from(text.len()).unwrap()],
        marks: vec![mark],
        data: text.to_vec(),
    };
    let file = MockHost::new().call(|host| JsonFile.encode(host, &[chunk])).unwrap().concat();
    String::from_utf8(file).unwrap()
}

/// Byte for byte what dockerd writes.
#[test]
fn lines_are_dockers() {
    let time = 1_704_164_645_000_000_006;
    assert_eq!(
        line(b"hello", time, 0, ""),
        "{\"log\":\"hello\\n\",\"stream\":\"stdout\",\"time\":\"2024-01-02T03:04:05.000000006Z\"}\n"
    );
    assert_eq!(
        line(b"oops", time + 994, marks::STDERR, r#"{"a":"b"}"#),
        "{\"log\":\"oops\\n\",\"stream\":\"stderr\",\"attrs\":{\"a\":\"b\"},\"time\":\"2024-01-02T03:04:05.000001Z\"}\n"
    );
    // Zeros at the end of a time are left out, and a piece of a line has no newline.
    assert_eq!(
        line(b"piece", 1_704_164_645_000_000_000, marks::PARTIAL, ""),
        "{\"log\":\"piece\",\"stream\":\"stdout\",\"time\":\"2024-01-02T03:04:05Z\"}\n"
    );
    let escaped = line("\"\\\n\r\t\u{1}<>&\u{2028}ä\u{7f}".as_bytes(), 0, 0, "");
    assert_eq!(
        escaped,
        "{\"log\":\"\\\"\\\\\\n\\r\\u0009\\u0001\\u003c\\u003e\\u0026\\u2028ä\u{7f}\\n\",\"stream\":\"stdout\",\"time\":\"1970-01-01T00:00:00Z\"}\n"
    );
    assert!(line(b"a\xffb\xc3", 0, 0, "").starts_with("{\"log\":\"a\\ufffdb\\ufffd\\n\""));
}

#[test]
fn times_of_all_kinds() {
    for (time, text) in [
        (951_782_400_000_000_000, "2000-02-29T00:00:00Z"),
        (1_709_251_199_999_999_999, "2024-02-29T23:59:59.999999999Z"),
        (4_102_444_800_100_000_000, "2100-01-01T00:00:00.1Z"),
        (u64::MAX, "2554-07-21T23:34:33.709551615Z"),
    ] {
        assert!(line(b"", time, 0, "").contains(&format!("\"time\":\"{text}\"")), "{text}");
        assert_eq!(time::parse(text), Some(time));
    }
    assert_eq!(time::parse("2024-01-02T03:04:05.5+01:00"), time::parse("2024-01-02T02:04:05.5Z"));
    for bad in [
        "",
        "2024-01-02",
        "2024-13-02T03:04:05Z",
        "2024-01-02T03:04:05",
        "2024-01-02T03:04:05.Z",
        "+024-01-02T03:04:05Z",
        "1969-01-01T00:00:00Z",
    ] {
        assert_eq!(time::parse(bad), None, "{bad}");
    }
}

#[test]
fn attributes_are_those_selected() {
    assert_eq!(open(&[]).unwrap(), "");
    assert_eq!(open(&[("max-size", "10m"), ("max-file", "3")]).unwrap(), "");
    assert_eq!(open(&[("labels", "com.example.one,missing")]).unwrap(), r#"{"com.example.one":"1"}"#);
    assert_eq!(
        open(&[("labels-regex", "^com\\.example\\.")]).unwrap(),
        r#"{"com.example.one":"1","com.example.two":"\u003c2\u003e"}"#
    );
    assert_eq!(
        open(&[("tag", "{{.ID}}/{{ .Name }} {{.ImageName}} {{.ImageID}} {{.Command}}")]).unwrap(),
        r#"{"tag":"0123456789ab/web busybox:1 fedcba987654 sh -c true"}"#
    );
    let mut with_environment = source(&[("env", "A")]);
    with_environment.environment = vec![("A".into(), "x\"y".into())];
    let format = MockHost::new().call(|host| JsonFile.open(host, &with_environment)).unwrap();
    assert_eq!(format.cookie, br#"{"A":"x\"y"}"#);
}

#[test]
fn bad_options_are_named() {
    assert_eq!(
        open(&[("colour", "red")]).unwrap_err().message,
        "unknown log opt 'colour' for json-file log driver"
    );
    for (key, value) in [("tag", "{{.Nothing}}"), ("tag", "{{.ID"), ("labels-regex", "(")] {
        let error = open(&[(key, value)]).unwrap_err();
        assert_eq!(error.code, Code::Invalid, "{key}={value}");
        assert!(error.message.contains(key), "{error}");
    }
}

#[test]
fn files_of_other_writers_are_read() {
    let file = b"{\"log\":\"a\\n\",\"stream\":\"stderr\",\"time\":\"2024-01-02T03:04:05.5Z\"}\nnot json\n{\"stream\":\"stdout\"}\n[]\n{\"time\":\"2024-01-02T03:04:06Z\",\"log\":\"b\",\"extra\":1}\n{\"log\":\"unfinished";
    let decoded = MockHost::new().call(|host| JsonFile.decode(host, &Vec::new(), file)).unwrap();
    assert_eq!(decoded.chunk.data, b"ab");
    assert_eq!(decoded.chunk.marks, [marks::STDERR, marks::PARTIAL]);
    assert_eq!(decoded.consumed as usize, file.len() - "{\"log\":\"unfinished".len());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// A JSON parser that knows nothing of us reads back what was written, whatever the bytes were.
    #[test]
    fn any_bytes_become_json(text in proptest::collection::vec(any::<u8>(), 0..200), time in 0..4_000_000_000_000_000_000_u64) {
        let line = line(&text, time, 0, "");
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        let log = value["log"].as_str().unwrap().strip_suffix('\n').unwrap();
        // Go replaces byte by byte, where Rust replaces a broken sequence as a whole.
        let expected: String = lossy_by_byte(&text);
        prop_assert_eq!(log, expected);
        prop_assert_eq!(time::parse(value["time"].as_str().unwrap()), Some(time));
        let html = ['<', '>', '&', '\u{2028}', '\u{2029}'];
        prop_assert!(!line.chars().any(|letter| html.contains(&letter) || letter < ' ' && letter != '\n'));
    }
}

fn lossy_by_byte(mut bytes: &[u8]) -> String {
    let mut text = String::new();
    while !bytes.is_empty() {
        match std::str::from_utf8(bytes) {
            Ok(good) => {
                text.push_str(good);
                break;
            }
            Err(error) => {
                let (good, bad) = bytes.split_at(error.valid_up_to());
                text.push_str(std::str::from_utf8(good).unwrap());
                text.push('\u{fffd}');
                bytes = &bad[1..];
            }
        }
    }
    text
}
