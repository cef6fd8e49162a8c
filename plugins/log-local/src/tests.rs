use wharf_plugin_sdk::conformance::{self, Subject};
use wharf_plugin_sdk::mock::MockHost;

use super::*;

#[test]
fn conforms() {
    conformance::codec(&Subject::<dyn Codec>::new(|| Box::new(Local)));
}

#[test]
fn damage_is_noticed() {
    let chunk = Chunk {
        cookie: Vec::new(),
        sequence: 0,
        times: vec![EPOCH + 300, 5],
        ends: vec![3, 3],
        marks: vec![marks::STDERR, 0],
        data: b"abc".to_vec(),
    };
    let host = MockHost::new();
    let file = host.call(|host| Local.encode(host, std::slice::from_ref(&chunk))).unwrap().concat();
    assert_eq!(file[..7], [1, 3, 0xac, 0x02, b'a', b'b', b'c'], "marks, length, time, text");
    let decoded = host.call(|host| Local.decode(host, &Vec::new(), &file)).unwrap();
    assert_eq!(decoded.chunk, chunk);
    let mut noticed = 0;
    for at in 0..file.len() {
        let mut bad = file.clone();
        bad[at] ^= 0x04;
        let result = host.call(|host| Local.decode(host, &Vec::new(), &bad));
        noticed += usize::from(
            result.is_err() || result.is_ok_and(|decoded| decoded.consumed as usize != file.len()),
        );
    }
    assert_eq!(noticed, file.len(), "every flipped bit is noticed");
    let endless = [vec![0], vec![0xff; 20]].concat();
    assert!(host.call(|host| Local.decode(host, &Vec::new(), &endless)).is_err());
}
