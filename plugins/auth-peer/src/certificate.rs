//! Whom a client certificate names: the common name of its subject, and its organizations as groups (RFC 5280).
//!
//! The host has verified the certificate before; here its DER is only read, and what cannot be read names nobody.

const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const ORGANIZATION: &[u8] = &[0x55, 0x04, 0x0a];
const INTEGER: u8 = 0x02;
const OID: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const VERSION: u8 = 0xa0;

/// A subject.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Subject {
    /// Its common name.
    pub(crate) name: String,
    /// Its organizations.
    pub(crate) organizations: Vec<String>,
}

/// One value: its tag, its content, and what follows it.
fn value(data: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, first], rest) = data.split_first_chunk::<2>()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0_usize, |sum, byte| (sum << 8) | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// The content of a value of this kind, and what follows it.
fn expect(data: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    value(data).filter(|found| found.0 == tag).map(|(_, content, rest)| (content, rest))
}

/// Reads the subject of a certificate; None where it has no common name.
pub(crate) fn subject(der: &[u8]) -> Option<Subject> {
    let (certificate, _) = expect(der, SEQUENCE)?;
    let (mut rest, _) = expect(certificate, SEQUENCE)?;
    if let Some((_, after)) = expect(rest, VERSION) {
        rest = after;
    }
    let (_, rest) = expect(rest, INTEGER)?;
    // Algorithm, issuer, validity.
    let (_, rest) = expect(rest, SEQUENCE)?;
    let (_, rest) = expect(rest, SEQUENCE)?;
    let (_, rest) = expect(rest, SEQUENCE)?;
    let (mut names, _) = expect(rest, SEQUENCE)?;
    let mut subject = Subject::default();
    while let Some((mut set, after)) = expect(names, SET) {
        names = after;
        while let Some((pair, next)) = expect(set, SEQUENCE) {
            set = next;
            let Some((oid, text)) = expect(pair, OID) else { continue };
            let Some(text) = value(text).and_then(|(_, text, _)| std::str::from_utf8(text).ok()) else {
                continue;
            };
            if oid == COMMON_NAME && subject.name.is_empty() {
                text.clone_into(&mut subject.name);
            } else if oid == ORGANIZATION {
                subject.organizations.push(text.to_owned());
            }
        }
    }
    (!subject.name.is_empty()).then_some(subject)
}

#[cfg(test)]
mod tests {
    use super::{Subject, subject};

    fn der(tag: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![tag];
        if let Ok(short @ ..=0x7f) = u8::try_from(content.len()) {
            out.push(short);
        } else {
            out.push(0x82);
            out.extend(u16::try_from(content.len()).unwrap().to_be_bytes());
        }
        out.extend_from_slice(content);
        out
    }

    fn certificate(names: &[(&[u8], &str)]) -> Vec<u8> {
        let names: Vec<u8> = names
            .iter()
            .flat_map(|(oid, text)| {
                der(0x31, &der(0x30, &[der(6, oid), der(0x0c, text.as_bytes())].concat()))
            })
            .collect();
        let empty = der(0x30, &[]);
        let fields = [der(0xa0, &der(2, &[2])), der(2, &[1]), empty.clone(), empty.clone(), empty];
        der(0x30, &der(0x30, &[fields.concat(), der(0x30, &names)].concat()))
    }

    #[test]
    fn subjects() {
        let good = certificate(&[
            (super::ORGANIZATION, "ops"),
            (super::COMMON_NAME, "alice"),
            (&[0x55, 4, 6], "DE"),
        ]);
        let wanted = Subject { name: "alice".into(), organizations: vec!["ops".into()] };
        assert_eq!(subject(&good), Some(wanted));
        let long = "x".repeat(300);
        assert_eq!(subject(&certificate(&[(super::COMMON_NAME, &long)])).unwrap().name, long);
        assert_eq!(subject(&certificate(&[(super::ORGANIZATION, "ops")])), None);
        // No beginning of a certificate is a certificate, and none of them is trouble.
        for end in 0..good.len() {
            assert_eq!(subject(&good[..end]), None);
        }
    }
}
