//! The functions that templates call: Go's own, and those that docker adds.

use std::cmp::Ordering;
use std::fmt::Write as _;

use serde_json::Value;

use super::wrong;
use crate::Error;

/// Calls a function by its name.
pub(super) fn call(name: &str, arguments: &[Value]) -> Result<Value, Error> {
    let first = arguments.first().unwrap_or(&Value::Null);
    let text = || display(first);
    let number = |at: usize| {
        let value = arguments.get(at).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
        value.ok_or_else(|| wrong(&format!("{name} needs a number")))
    };
    Ok(match name {
        "json" => serde_json::to_string(first)?.into(),
        "len" => match first {
            Value::Array(a) => a.len(),
            Value::Object(o) => o.len(),
            Value::String(s) => s.len(),
            _ => 0,
        }
        .into(),
        "upper" => text().to_uppercase().into(),
        "lower" => text().to_lowercase().into(),
        "title" => title(&text()).into(),
        "print" => arguments.iter().map(display).collect::<String>().into(),
        "printf" => printf(&text(), arguments.get(1..).unwrap_or_default())?.into(),
        "println" => format!("{}\n", arguments.iter().map(display).collect::<Vec<_>>().join(" ")).into(),
        "join" => {
            let separator = arguments.get(1).map(display).unwrap_or_default();
            let parts: Vec<String> = first.as_array().into_iter().flatten().map(display).collect();
            parts.join(&separator).into()
        }
        "split" => {
            let separator = arguments.get(1).map(display).unwrap_or_default();
            text().split(&separator).map(Value::from).collect::<Vec<_>>().into()
        }
        "truncate" => text().chars().take(number(1)?).collect::<String>().into(),
        "pad" => match text() {
            empty if empty.is_empty() => empty.into(),
            text => format!("{}{text}{}", " ".repeat(number(1)?), " ".repeat(number(2)?)).into(),
        },
        "slice" => slice(first, number(1)?, arguments.get(2).map(|_| number(2)).transpose()?)?,
        "index" => index(first, arguments.get(1..).unwrap_or_default())?,
        "eq" => arguments.iter().skip(1).any(|a| a == first).into(),
        "ne" => arguments.iter().skip(1).all(|a| a != first).into(),
        "lt" => (compare(arguments)? == Ordering::Less).into(),
        "le" => (compare(arguments)? != Ordering::Greater).into(),
        "gt" => (compare(arguments)? == Ordering::Greater).into(),
        "ge" => (compare(arguments)? != Ordering::Less).into(),
        "not" => (!truth(first)).into(),
        "and" => arguments.iter().find(|a| !truth(a)).or(arguments.last()).cloned().unwrap_or(Value::Null),
        "or" => arguments.iter().find(|a| truth(a)).or(arguments.last()).cloned().unwrap_or(Value::Null),
        "urlquery" => text()
            .bytes()
            .map(|b| match b {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                    char::from(b).to_string()
                }
                b' ' => "+".to_owned(),
                b => format!("%{b:02X}"),
            })
            .collect::<String>()
            .into(),
        other => return Err(wrong(&format!("function {other:?} not defined"))),
    })
}

/// A capital at the beginning of each word.
fn title(text: &str) -> String {
    let mut before = ' ';
    text.chars()
        .map(|c| {
            let capital = if before.is_alphanumeric() || before == '\'' { c } else { c.to_ascii_uppercase() };
            before = c;
            capital
        })
        .collect()
}

fn slice(value: &Value, from: usize, to: Option<usize>) -> Result<Value, Error> {
    let out_of_range = || wrong("error calling slice: index out of range");
    match value {
        Value::Array(list) => list
            .get(from..to.unwrap_or(list.len()))
            .map(|part| Value::from(part.to_vec()))
            .ok_or_else(out_of_range),
        Value::String(text) => {
            text.get(from..to.unwrap_or(text.len())).map(Value::from).ok_or_else(out_of_range)
        }
        _ => Err(wrong("error calling slice: can't slice item")),
    }
}

fn index(value: &Value, keys: &[Value]) -> Result<Value, Error> {
    let mut at = value;
    for key in keys {
        at = match at {
            Value::Array(list) => key
                .as_u64()
                .and_then(|i| list.get(usize::try_from(i).ok()?))
                .ok_or_else(|| wrong(&format!("error calling index: index out of range: {key}")))?,
            // A map without the key has Go's zero.
            Value::Object(map) => match map.get(&display(key)) {
                Some(found) => found,
                None => return Ok(Value::String(String::new())),
            },
            _ => return Err(wrong("error calling index: can't index item")),
        };
    }
    Ok(at.clone())
}

fn compare(arguments: &[Value]) -> Result<Ordering, Error> {
    match arguments {
        [Value::Number(a), Value::Number(b)] => {
            let (a, b) = (a.as_f64().unwrap_or_default(), b.as_f64().unwrap_or_default());
            Ok(a.partial_cmp(&b).unwrap_or(Ordering::Equal))
        }
        [Value::String(a), Value::String(b)] => Ok(a.cmp(b)),
        _ => Err(wrong("error calling lt: incompatible types for comparison")),
    }
}

/// A number or text beyond this is not widened further.
const WIDEST: usize = 1000;

/// Go's `%v %s %d %q %t %x %X %f %c %%` with width, precision, `-`, `0` and `+`.
fn printf(format: &str, arguments: &[Value]) -> Result<String, Error> {
    let mut out = String::new();
    let mut next = arguments.iter();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let (mut left, mut zero, mut plus) = (false, false, false);
        while let Some(flag) = chars.next_if(|c| matches!(c, '-' | '0' | '+' | '#' | ' ')) {
            match flag {
                '-' => left = true,
                '0' => zero = true,
                '+' => plus = true,
                _ => {}
            }
        }
        let mut number = || -> usize {
            let mut digits = String::new();
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            digits.parse().unwrap_or(0).min(WIDEST)
        };
        let width = number();
        let precision = if chars.next_if_eq(&'.').is_some() {
            let mut digits = String::new();
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            Some(digits.parse().unwrap_or(0).min(WIDEST))
        } else {
            None
        };
        let verb = chars.next().ok_or_else(|| wrong("printf: no verb after %"))?;
        if verb == '%' {
            out.push('%');
            continue;
        }
        let Some(value) = next.next() else {
            let _ = write!(out, "%!{verb}(MISSING)");
            continue;
        };
        let mut text = match (verb, value) {
            ('d', Value::Number(n)) if n.is_i64() || n.is_u64() => n.to_string(),
            ('x', Value::Number(n)) => format!("{:x}", n.as_i64().unwrap_or_default()),
            ('X', Value::Number(n)) => format!("{:X}", n.as_i64().unwrap_or_default()),
            ('x', Value::String(s)) => s.bytes().fold(String::new(), |mut out, b| {
                let _ = write!(out, "{b:02x}");
                out
            }),
            ('f', Value::Number(n)) => {
                format!("{:.*}", precision.unwrap_or(6), n.as_f64().unwrap_or_default())
            }
            ('t', Value::Bool(b)) => b.to_string(),
            ('q', Value::String(s)) => format!("{s:?}"),
            ('s' | 'v', value) => {
                let text = display(value);
                match precision {
                    Some(most) => text.chars().take(most).collect(),
                    None => text,
                }
            }
            (verb, value) => format!("%!{verb}({})", display(value)),
        };
        if plus && value.as_f64().is_some_and(|n| n >= 0.0) {
            text.insert(0, '+');
        }
        let missing = width.saturating_sub(text.chars().count());
        if left {
            out.push_str(&text);
            out.push_str(&" ".repeat(missing));
        } else {
            out.push_str(&if zero && value.is_number() { "0" } else { " " }.repeat(missing));
            out.push_str(&text);
        }
    }
    Ok(out)
}

/// `{{.Label "key"}}` of a list's row, whose labels are one text.
pub(super) fn label(row: &Value, key: Option<&Value>) -> Value {
    let key = key.map(display).unwrap_or_default();
    let found = match row.get("Labels") {
        Some(Value::Object(map)) => map.get(&key).map(display),
        Some(Value::String(text)) => text
            .split(',')
            .find_map(|pair| pair.split_once('=').filter(|(k, _)| *k == key).map(|(_, v)| v.to_owned())),
        _ => None,
    };
    Value::String(found.unwrap_or_default())
}

/// What Go prints where Docker's own types have an empty list, an empty map or no number: JSON has null for all of them.
pub(super) fn empty_as_go(value: &Value, name: &str) -> Value {
    if !value.is_null() {
        return value.clone();
    }
    match name {
        "Aliases" | "Binds" | "CapAdd" | "CapDrop" | "Cmd" | "DNSNames" | "DeviceCgroupRules"
        | "DeviceRequests" | "Devices" | "Entrypoint" | "ExecIDs" | "ExtraHosts" | "GroupAdd" | "Links"
        | "OnBuild" | "SecurityOpt" | "Ulimits" | "VolumesFrom" => Value::Array(Vec::new()),
        "DriverOpts" | "Labels" | "Options" | "Volumes" => Value::Object(serde_json::Map::new()),
        "IPAMConfig" | "MemorySwappiness" | "OomKillDisable" | "PidsLimit" => "<nil>".into(),
        _ => Value::Null,
    }
}

/// Whether Go takes a value for true.
pub(super) fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(b) => *b,
        Value::Number(n) => n.as_f64() != Some(0.0),
        Value::String(s) => !s.is_empty() && s != "<nil>",
        Value::Array(a) => !a.is_empty(),
        Value::Object(o) => !o.is_empty(),
    }
}

/// As Go prints values: lists in brackets, maps as `map[key:value]`.
pub(super) fn display(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".into(),
        Value::String(s) => s.clone(),
        Value::Array(a) => format!("[{}]", a.iter().map(display).collect::<Vec<_>>().join(" ")),
        Value::Object(o) => {
            let mut items: Vec<String> = o.iter().map(|(k, v)| format!("{k}:{}", display(v))).collect();
            items.sort();
            format!("map[{}]", items.join(" "))
        }
        other => other.to_string(),
    }
}
