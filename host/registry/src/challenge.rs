//! `WWW-Authenticate`: what a server asks for.

use std::collections::BTreeMap;

/// Longest header that is looked at.
const MAX: usize = 8 << 10;
/// Challenges of one answer.
const MAX_CHALLENGES: usize = 8;

/// One challenge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// `basic`, `bearer`… in lower case.
    pub scheme: String,
    /// Parameters, names in lower case.
    pub parameters: BTreeMap<String, String>,
}

impl Challenge {
    /// A parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }
}

fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

struct Cursor<'a> {
    text: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.first().copied()
    }

    fn skip(&mut self, n: usize) {
        self.text = self.text.get(n..).unwrap_or_default();
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t')) {
            self.skip(1);
        }
    }

    fn token(&mut self) -> &'a [u8] {
        let n = self.text.iter().take_while(|b| is_token(**b)).count();
        let (token, rest) = self.text.split_at(n);
        self.text = rest;
        token
    }

    /// A value, quoted or not.
    fn value(&mut self) -> Option<Vec<u8>> {
        if self.peek() != Some(b'"') {
            // Some servers forget the quotes around addresses.
            let n = self.text.iter().take_while(|b| !matches!(b, b',' | b' ' | b'\t')).count();
            let (value, rest) = self.text.split_at(n);
            self.text = rest;
            return Some(value.to_vec());
        }
        self.skip(1);
        let mut value = Vec::new();
        loop {
            match self.peek()? {
                b'"' => {
                    self.skip(1);
                    return Some(value);
                }
                b'\\' => {
                    self.skip(1);
                    value.push(self.peek()?);
                    self.skip(1);
                }
                b => {
                    value.push(b);
                    self.skip(1);
                }
            }
        }
    }
}

/// The challenges of one header. What cannot be read ends the list.
pub fn parse(header: &str) -> Vec<Challenge> {
    let mut found: Vec<Challenge> = Vec::new();
    if header.len() > MAX {
        return found;
    }
    let mut at = Cursor { text: header.as_bytes() };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    loop {
        while matches!(at.peek(), Some(b' ' | b'\t' | b',')) {
            at.skip(1);
        }
        let word = at.token();
        if word.is_empty() || found.len() >= MAX_CHALLENGES {
            return found;
        }
        at.blanks();
        if at.peek() == Some(b'=')
            && let Some(challenge) = found.last_mut()
        {
            at.skip(1);
            at.blanks();
            let Some(value) = at.value() else { return found };
            challenge.parameters.entry(text(word).to_lowercase()).or_insert_with(|| text(&value));
        } else {
            found.push(Challenge { scheme: text(word).to_lowercase(), parameters: BTreeMap::new() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_registries_say() {
        let found = parse(
            r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/x:pull,push",error="insufficient_scope""#,
        );
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].scheme, "bearer");
        assert_eq!(found[0].get("realm"), Some("https://auth.docker.io/token"));
        assert_eq!(found[0].get("scope"), Some("repository:library/x:pull,push"));
        let found = parse(r#"Basic realm="a \"b\" , c", Bearer realm=https://x/y,service=s"#);
        assert_eq!(found.iter().map(|c| c.scheme.as_str()).collect::<Vec<_>>(), ["basic", "bearer"]);
        assert_eq!(found[0].get("realm"), Some("a \"b\" , c"));
        assert_eq!(found[1].get("realm"), Some("https://x/y"));
        assert_eq!(parse("Basic"), [Challenge { scheme: "basic".into(), parameters: BTreeMap::new() }]);
        assert_eq!(parse("Basic realm=\"open"), parse("Basic"));
        assert!(parse("").is_empty());
        assert!(parse("= , =").is_empty());
        assert!(parse(&"a".repeat(MAX + 1)).is_empty());
        assert_eq!(parse(&"a ".repeat(100)).len(), MAX_CHALLENGES);
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,200}|[a-zA-Z=\", \\\\]{0,200}") {
            let _ = parse(&text);
        }
    }
}
