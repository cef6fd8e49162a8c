//! The query string, read as Docker reads it.

use wharf_engine::Filters;

use crate::error::Failure;

/// Most parameters that one request may have.
const MAX_PARAMETERS: usize = 1000;

/// Decoded parameters in the order they were given.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(raw: &str) -> Result<Self, Failure> {
        let mut all = Vec::new();
        for pair in raw.split('&').filter(|p| !p.is_empty()) {
            if all.len() == MAX_PARAMETERS {
                return Err(Failure::invalid("too many query parameters"));
            }
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let bad = || Failure::invalid(format!("invalid URL escape in query parameter {pair:?}"));
            all.push((decode(key, true).ok_or_else(bad)?, decode(value, true).ok_or_else(bad)?));
        }
        Ok(Self(all))
    }

    /// All of them, for authorizers.
    pub(crate) fn pairs(&self) -> &[(String, String)] {
        &self.0
    }

    /// The first value of a parameter.
    pub(crate) fn given(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// The first value; absent is empty.
    pub(crate) fn text(&self, key: &str) -> &str {
        self.given(key).unwrap_or_default()
    }

    /// The first value, if there is one and it is not empty.
    pub(crate) fn non_empty(&self, key: &str) -> Option<&str> {
        self.given(key).filter(|v| !v.is_empty())
    }

    /// All values of a parameter.
    pub(crate) fn all(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// Docker's reading: everything is true but what says no.
    pub(crate) fn flag(&self, key: &str) -> bool {
        let value = self.text(key).trim().to_ascii_lowercase();
        !matches!(value.as_str(), "" | "0" | "no" | "false" | "none")
    }

    /// As [`Self::flag`], with a default for an absent one.
    pub(crate) fn flag_or(&self, key: &str, default: bool) -> bool {
        if self.given(key).is_some() { self.flag(key) } else { default }
    }

    /// A whole number; absent or empty is None.
    pub(crate) fn number<T: std::str::FromStr>(&self, key: &str) -> Result<Option<T>, Failure> {
        self.non_empty(key)
            .map(|text| {
                text.trim().parse().map_err(|_| {
                    Failure::invalid(format!(
                        "invalid value {text:?} for parameter {key}: a whole number is needed"
                    ))
                })
            })
            .transpose()
    }

    /// The `filters` parameter; a key that is not in `known` is refused.
    pub(crate) fn filters(&self, known: &[&str]) -> Result<Filters, Failure> {
        let filters = Filters::parse(self.text("filters"))?;
        filters.only(known)?;
        Ok(filters)
    }
}

/// Resolves `%xx` (and `+` in a query); None if malformed.
pub(crate) fn decode(text: &str, plus: bool) -> Option<String> {
    if !text.bytes().any(|b| b == b'%' || (plus && b == b'+')) {
        return Some(text.to_owned());
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let high = char::from(bytes.next()?).to_digit(16)?;
                let low = char::from(bytes.next()?).to_digit(16)?;
                out.push(u8::try_from(high * 16 + low).ok()?);
            }
            b'+' if plus => out.push(b' '),
            other => out.push(other),
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::{Query, decode};

    #[test]
    fn booleans_as_docker_reads_them() {
        for (text, wanted) in [
            ("a=1", true),
            ("a=true", true),
            ("a=True", true),
            ("a=t", true),
            ("a=yes", true),
            ("a=x", true),
            ("a=", false),
            ("a", false),
            ("", false),
            ("a=0", false),
            ("a=false", false),
            ("a=False", false),
            ("a=no", false),
            ("a=none", false),
            ("a=%20no", false),
        ] {
            assert_eq!(Query::parse(text).unwrap().flag("a"), wanted, "{text:?}");
        }
        assert!(Query::parse("").unwrap().flag_or("a", true));
        assert!(!Query::parse("a=0").unwrap().flag_or("a", true));
    }

    #[test]
    fn escapes() {
        assert_eq!(decode("a%2Fb+c", true).unwrap(), "a/b c");
        assert_eq!(decode("a+b", false).unwrap(), "a+b");
        for bad in ["%", "%2", "%zz", "%ff"] {
            assert!(decode(bad, true).is_none(), "{bad}");
        }
        assert!(Query::parse("a=%zz").unwrap_err().message.contains("escape"));
    }

    #[test]
    fn filters_in_both_forms_and_unknown_ones_refused() {
        for text in [r#"{"label":["a=b"]}"#, r#"{"label":{"a=b":true}}"#] {
            let encoded: String = text.bytes().fold(String::new(), |all, b| format!("{all}%{b:02x}"));
            let query = Query::parse(&format!("filters={encoded}")).unwrap();
            assert_eq!(query.filters(&["label"]).unwrap().get("label"), ["a=b"]);
            let refused = query.filters(&["name"]).unwrap_err();
            assert_eq!((refused.status.as_u16(), refused.message.as_str()), (400, "invalid filter 'label'"));
        }
        assert_eq!(Query::parse("filters=[]").unwrap().filters(&[]).unwrap_err().status, 400);
    }

    #[test]
    fn numbers() {
        let query = Query::parse("t=-1&h=70000&e=").unwrap();
        assert_eq!(query.number::<i64>("t").unwrap(), Some(-1));
        assert_eq!(query.number::<u16>("h").unwrap_err().status, 400);
        assert_eq!(query.number::<u16>("e").unwrap(), None);
        assert!(Query::parse(&"a&".repeat(1001)).is_err());
    }
}
