//! Tables, and the part of Go's templates that scripts use with `--format`.
//!
//! Known: `{{.A.B}}`, pipes, parentheses, literals, `{{$x := .A}}`, `{{range .A}}…{{end}}` (also `{{range $k, $v := .A}}`),
//! `{{if .A}}…{{else if .B}}…{{else}}…{{end}}`, `{{with .A}}`, comments, trimming dashes, and the functions of
//! [`functions`]. Anything else is an error that names it.

mod functions;

use std::collections::HashMap;

use serde_json::Value;

use crate::Error;
use functions::{call, display, truth};

/// A parsed template.
#[derive(Debug, PartialEq)]
pub(crate) struct Template {
    nodes: Vec<Node>,
}

#[derive(Debug, PartialEq)]
enum Node {
    Text(String),
    Print(Pipe),
    Set(String, Pipe),
    If(Pipe, Vec<Node>, Vec<Node>),
    With(Pipe, Vec<Node>, Vec<Node>),
    Range { names: Vec<String>, over: Pipe, body: Vec<Node>, otherwise: Vec<Node> },
}

type Pipe = Vec<Vec<Term>>;

#[derive(Debug, PartialEq, Clone)]
enum Term {
    Path(Vec<String>),
    Variable(String, Vec<String>),
    Word(String),
    Literal(Value),
    Group(Pipe),
    /// Members of what is in parentheses.
    Member(Pipe, Vec<String>),
}

fn wrong(what: &str) -> Error {
    Error::Usage(format!("template parsing error: {what}"))
}

enum Token<'a> {
    Text(String),
    Action(&'a str),
}

fn tokens(source: &str) -> Result<Vec<Token<'_>>, Error> {
    let mut out = Vec::new();
    let mut rest = source;
    let mut trim_next = false;
    while let Some(start) = rest.find("{{") {
        let (before, after) = rest.split_at(start);
        let after = after.get(2..).unwrap_or_default();
        let end = after.find("}}").ok_or_else(|| wrong("unclosed action"))?;
        let (action, tail) = after.split_at(end);
        let mut before = if trim_next { before.trim_start() } else { before };
        let mut action = action;
        if let Some(stripped) = action.strip_prefix("- ") {
            before = before.trim_end();
            action = stripped;
        }
        trim_next = false;
        if let Some(stripped) = action.strip_suffix(" -") {
            action = stripped;
            trim_next = true;
        }
        out.push(Token::Text(before.to_owned()));
        out.push(Token::Action(action.trim()));
        rest = tail.get(2..).unwrap_or_default();
    }
    out.push(Token::Text(if trim_next { rest.trim_start() } else { rest }.to_owned()));
    Ok(out)
}

/// Stands between a closing parenthesis and a path that belongs to it.
const MEMBER: char = '\0';

/// Words of an action: paths, literals, parentheses, pipes.
fn words(action: &str) -> Result<Vec<String>, Error> {
    let mut out = Vec::new();
    let mut chars = action.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' | '\n' => {}
            ')' if chars.peek() == Some(&'.') => {
                out.push(c.to_string());
                // What follows without a blank belongs to what is in the parentheses.
                out.push(MEMBER.to_string());
            }
            '(' | ')' | '|' | ',' => out.push(c.to_string()),
            '"' | '`' => {
                let mut literal = String::from('"');
                loop {
                    match chars.next() {
                        None => return Err(wrong("unterminated string")),
                        Some(end) if end == c => break,
                        Some('\\') if c == '"' => match chars.next() {
                            Some('n') => literal.push('\n'),
                            Some('t') => literal.push('\t'),
                            Some(other) => literal.push(other),
                            None => return Err(wrong("unterminated string")),
                        },
                        Some(other) => literal.push(other),
                    }
                }
                out.push(literal);
            }
            _ => {
                let mut word = String::from(c);
                while let Some(next) = chars.peek().copied().filter(|n| !" \t\n()|,\"`".contains(*n)) {
                    word.push(next);
                    chars.next();
                }
                out.push(word);
            }
        }
    }
    Ok(out)
}

fn pipe(words: &mut std::iter::Peekable<std::vec::IntoIter<String>>, nested: bool) -> Result<Pipe, Error> {
    let mut commands = vec![Vec::new()];
    while let Some(word) = words.next() {
        let term = match word.as_str() {
            ")" if nested => return Ok(commands),
            "|" => {
                commands.push(Vec::new());
                continue;
            }
            "\0" => {
                let path = words.next().map(|w| path(&w)).unwrap_or_default();
                match commands.last_mut().and_then(Vec::pop) {
                    Some(Term::Group(inner)) => Term::Member(inner, path),
                    _ => return Err(wrong("unexpected . after )")),
                }
            }
            "(" => Term::Group(pipe(words, true)?),
            w if w.starts_with('"') => Term::Literal(w.get(1..).unwrap_or_default().into()),
            w if w.starts_with('.') => Term::Path(path(w)),
            w if w.starts_with('$') => {
                let (name, rest) =
                    w.split_once('.').map_or((w, String::new()), |(n, r)| (n, format!(".{r}")));
                Term::Variable(name.to_owned(), path(&rest))
            }
            "true" | "false" => Term::Literal((word == "true").into()),
            "nil" => Term::Literal(Value::Null),
            w if w.parse::<i64>().is_ok() => Term::Literal(w.parse::<i64>().unwrap_or_default().into()),
            w if w.starts_with(|c: char| c.is_ascii_digit() || c == '-') && w.parse::<f64>().is_ok() => {
                Term::Literal(w.parse::<f64>().unwrap_or_default().into())
            }
            w if w.chars().all(|c| c.is_alphanumeric() || c == '_') => Term::Word(word),
            w => return Err(wrong(&format!("unexpected {w:?}"))),
        };
        if let Some(last) = commands.last_mut() {
            last.push(term);
        }
    }
    if nested { Err(wrong("unclosed left paren")) } else { Ok(commands) }
}

fn path(word: &str) -> Vec<String> {
    word.split('.').filter(|p| !p.is_empty()).map(str::to_owned).collect()
}

fn parse_pipe(text: &str) -> Result<Pipe, Error> {
    let parsed = pipe(&mut words(text)?.into_iter().peekable(), false)?;
    if parsed.iter().any(Vec::is_empty) {
        Err(wrong(&format!("missing value in {text:?}")))
    } else {
        Ok(parsed)
    }
}

impl Template {
    pub(crate) fn parse(source: &str) -> Result<Self, Error> {
        let source = source.replace("\\t", "\t").replace("\\n", "\n");
        let mut tokens = tokens(&source)?.into_iter();
        let (nodes, end) = block(&mut tokens)?;
        match end {
            None => Ok(Self { nodes }),
            Some(word) => Err(wrong(&format!("unexpected {{{{{word}}}}}"))),
        }
    }

    /// The text for one value.
    pub(crate) fn render(&self, value: &Value) -> Result<String, Error> {
        let mut out = String::new();
        render(&self.nodes, value, &mut HashMap::from([("$".to_owned(), value.clone())]), &mut out)?;
        Ok(out)
    }
}

/// Nodes up to `end` or `else`; gives what ended the block.
fn block<'a>(tokens: &mut impl Iterator<Item = Token<'a>>) -> Result<(Vec<Node>, Option<String>), Error> {
    let mut nodes = Vec::new();
    while let Some(token) = tokens.next() {
        let action = match token {
            Token::Text(text) => {
                if !text.is_empty() {
                    nodes.push(Node::Text(text));
                }
                continue;
            }
            Token::Action(action) => action,
        };
        let (word, rest) = action.split_once(' ').unwrap_or((action, ""));
        match word {
            "end" | "else" => return Ok((nodes, Some(action.to_owned()))),
            "if" | "with" | "range" => nodes.push(control(word, rest, tokens)?),
            "" => return Err(wrong("missing value for command")),
            _ if word.starts_with("/*") => {}
            _ => match action.split_once(":=") {
                Some((name, pipe)) if name.trim().starts_with('$') => {
                    nodes.push(Node::Set(name.trim().to_owned(), parse_pipe(pipe)?));
                }
                _ => nodes.push(Node::Print(parse_pipe(action)?)),
            },
        }
    }
    Ok((nodes, None))
}

/// `if`, `with` or `range` up to its `end`.
fn control<'a>(word: &str, rest: &str, tokens: &mut impl Iterator<Item = Token<'a>>) -> Result<Node, Error> {
    let (body, end) = block(tokens)?;
    let end = end.ok_or_else(|| wrong(&format!("{word} without end")))?;
    let otherwise = match end.strip_prefix("else").map(str::trim) {
        None => Vec::new(),
        Some("") => match block(tokens)? {
            (nodes, Some(end)) if end == "end" => nodes,
            _ => return Err(wrong("else without end")),
        },
        // The end of this one is the end of all before it.
        Some(more) => match more.split_once(' ') {
            Some((next @ ("if" | "with"), rest)) => vec![control(next, rest, tokens)?],
            _ => return Err(wrong(&format!("unexpected {more:?} after else"))),
        },
    };
    Ok(match word {
        "if" => Node::If(parse_pipe(rest)?, body, otherwise),
        "with" => Node::With(parse_pipe(rest)?, body, otherwise),
        _ => {
            let (names, over) = rest.split_once(":=").unwrap_or(("", rest));
            let names =
                names.split(',').map(str::trim).filter(|n| !n.is_empty()).map(str::to_owned).collect();
            Node::Range { names, over: parse_pipe(over)?, body, otherwise }
        }
    })
}

type Variables = HashMap<String, Value>;

fn render(nodes: &[Node], dot: &Value, variables: &mut Variables, out: &mut String) -> Result<(), Error> {
    for node in nodes {
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Print(pipe) => out.push_str(&display(&evaluate(pipe, dot, variables)?)),
            Node::Set(name, pipe) => {
                let value = evaluate(pipe, dot, variables)?;
                variables.insert(name.clone(), value);
            }
            Node::If(condition, yes, no) => {
                let branch = if truth(&evaluate(condition, dot, variables)?) { yes } else { no };
                render(branch, dot, variables, out)?;
            }
            Node::With(pipe, yes, no) => {
                let value = evaluate(pipe, dot, variables)?;
                if truth(&value) {
                    render(yes, &value, variables, out)?;
                } else {
                    render(no, dot, variables, out)?;
                }
            }
            Node::Range { names, over, body, otherwise } => {
                let items: Vec<(Value, Value)> = match evaluate(over, dot, variables)? {
                    Value::Array(items) => {
                        items.into_iter().enumerate().map(|(i, v)| (i.into(), v)).collect()
                    }
                    Value::Object(map) => map.into_iter().map(|(k, v)| (k.into(), v)).collect(),
                    _ => Vec::new(),
                };
                if items.is_empty() {
                    render(otherwise, dot, variables, out)?;
                }
                for (key, value) in items {
                    match names.as_slice() {
                        [one] => drop(variables.insert(one.clone(), value.clone())),
                        [first, second, ..] => {
                            variables.insert(first.clone(), key);
                            variables.insert(second.clone(), value.clone());
                        }
                        [] => {}
                    }
                    render(body, &value, variables, out)?;
                }
            }
        }
    }
    Ok(())
}

fn evaluate(pipe: &Pipe, dot: &Value, variables: &Variables) -> Result<Value, Error> {
    let mut piped = None;
    for command in pipe {
        let mut arguments = Vec::new();
        let function = match command.first() {
            Some(Term::Word(name)) => Some(name.as_str()),
            _ => None,
        };
        for term in command.iter().skip(usize::from(function.is_some())) {
            arguments.push(match term {
                Term::Path(path) if path.as_slice() == ["Label"] && command.len() > 1 => Value::Null,
                Term::Path(path) => lookup(dot, path)?,
                Term::Variable(name, path) => {
                    let value =
                        variables.get(name).ok_or_else(|| wrong(&format!("undefined variable {name}")))?;
                    lookup(value, path)?
                }
                Term::Literal(value) => value.clone(),
                Term::Group(pipe) => evaluate(pipe, dot, variables)?,
                Term::Member(pipe, path) => lookup(&evaluate(pipe, dot, variables)?, path)?,
                Term::Word(word) => return Err(wrong(&format!("function {word:?} not expected here"))),
            });
        }
        arguments.extend(piped.take());
        piped = Some(match function {
            // The one method that scripts call: `{{.Label "key"}}` of lists.
            None if matches!(command.first(), Some(Term::Path(path)) if path.as_slice() == ["Label"]) => {
                functions::label(dot, arguments.get(1))
            }
            None => arguments.into_iter().next().unwrap_or(Value::Null),
            Some(name) => call(name, &arguments)?,
        });
    }
    Ok(piped.unwrap_or(Value::Null))
}

/// Members are found whatever their case, as the Go names and the JSON names differ in it.
fn lookup(value: &Value, path: &[String]) -> Result<Value, Error> {
    let mut at = value;
    for name in path {
        at = match at {
            Value::Object(map) => match map
                .get(name)
                .or_else(|| map.iter().find(|(k, _)| k.eq_ignore_ascii_case(name)).map(|(_, v)| v))
            {
                Some(found) => found,
                None => {
                    return Err(wrong_value(&format!("map has no entry for key {name:?}"), path));
                }
            },
            Value::Null => {
                return Err(wrong_value(&format!("nil pointer evaluating interface {{}}.{name}"), path));
            }
            _ => return Err(wrong_value(&format!("can't evaluate field {name}"), path)),
        };
    }
    Ok(functions::empty_as_go(at, path.last().map_or("", String::as_str)))
}

/// What Go says where a template asks for something that is not there.
fn wrong_value(what: &str, path: &[String]) -> Error {
    Error::Missing(format!(
        "template parsing error: template: :1:2: executing \"\" at <.{}>: {what}",
        path.join(".")
    ))
}

/// Prints rows as a table with these columns (heading, member), or as `format` says.
pub(crate) fn print_list(
    rows: &[Value],
    columns: &[(&str, &str)],
    format: Option<&str>,
) -> Result<(), Error> {
    print!("{}", list_text(rows, columns, format)?);
    Ok(())
}

/// The text of a list.
pub(crate) fn list_text(
    rows: &[Value],
    columns: &[(&str, &str)],
    format: Option<&str>,
) -> Result<String, Error> {
    let format = format.unwrap_or("table");
    let lines = |line: &dyn Fn(&Value) -> Result<String, Error>| {
        rows.iter().map(|row| line(row).map(|text| text + "\n")).collect::<Result<String, Error>>()
    };
    if format == "json" || format == "{{json .}}" {
        // As Go writes them; outside of texts those three do not occur.
        let escaped =
            |text: String| text.replace('&', "\\u0026").replace('<', "\\u003c").replace('>', "\\u003e");
        return lines(&|row| Ok(escaped(serde_json::to_string(row)?)));
    }
    let Some(template) = format.strip_prefix("table") else {
        let template = Template::parse(format)?;
        return lines(&|row| template.render(row));
    };
    let template = template.trim();
    if template.is_empty() {
        let head: Vec<String> = columns.iter().map(|(heading, _)| (*heading).to_owned()).collect();
        let cell = |row: &Value, member: &str| row.get(member).map(display).unwrap_or_default();
        let body =
            rows.iter().map(|row| columns.iter().map(|(_, member)| cell(row, member)).collect()).collect();
        return Ok(table(head, body));
    }
    // The heading is the template over the headings themselves.
    let heads: serde_json::Map<String, Value> =
        columns.iter().map(|(heading, member)| ((*member).to_owned(), (*heading).into())).collect();
    let template = Template::parse(template)?;
    let split = |line: String| line.split('\t').map(str::to_owned).collect::<Vec<_>>();
    let head = split(template.render(&heads.into())?);
    let body = rows.iter().map(|row| template.render(row).map(split)).collect::<Result<Vec<_>, _>>()?;
    Ok(table(head, body))
}

/// As a table with the wide columns that docker's `top` has.
pub(crate) fn print_wide(rows: &[Value], columns: &[(&str, &str)]) {
    let head = columns.iter().map(|(heading, _)| (*heading).to_owned()).collect();
    let cell = |row: &Value, member: &str| row.get(member).map(display).unwrap_or_default();
    let body = rows.iter().map(|row| columns.iter().map(|(_, member)| cell(row, member)).collect()).collect();
    print!("{}", aligned(head, body, 20));
}

/// A value as `inspect` shows it: four blanks for each level.
pub(crate) fn pretty(value: &Value) -> Result<String, Error> {
    let text = serde_json::to_string_pretty(value)?;
    // Two for each level until here; texts in it have no line ends of their own.
    let indent = |line: &str| " ".repeat(line.len() - line.trim_start_matches(' ').len());
    Ok(text.lines().map(|line| indent(line) + line).collect::<Vec<_>>().join("\n"))
}

/// Narrowest column, and the blanks behind the widest cell of one, as docker's tables have them.
const NARROWEST: usize = 10;
const GAP: usize = 3;

fn table(head: Vec<String>, body: Vec<Vec<String>>) -> String {
    aligned(head, body, NARROWEST)
}

/// Rows under their heads, each column as wide as its widest cell and [`GAP`] more, and `narrowest` at least.
pub(crate) fn aligned(head: Vec<String>, body: Vec<Vec<String>>, narrowest: usize) -> String {
    let all: Vec<Vec<String>> = std::iter::once(head).chain(body).collect();
    let columns = all.iter().map(Vec::len).max().unwrap_or(0);
    let width = |cell: &String| cell.chars().count();
    let widths: Vec<usize> = (0..columns)
        .map(|i| (all.iter().filter_map(|row| row.get(i)).map(width).max().unwrap_or(0) + GAP).max(narrowest))
        .collect();
    let mut out = String::new();
    for row in &all {
        for (i, (cell, wide)) in row.iter().zip(&widths).enumerate() {
            out.push_str(cell);
            if i + 1 < row.len() {
                out.extend(std::iter::repeat_n(' ', wide - width(cell)));
            }
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn templates_as_scripts_use_them() {
        let value = json!({"Id": "abc", "State": {"Running": true, "Code": 3}, "Names": ["x", "y"], "Labels": {"a.b": "c"}, "None": null, "Nobody": [], "List": [{"Name": "one"}, {"Name": "two"}],
            "HostConfig": {"Binds": null, "PidsLimit": null, "Labels": null}});
        for (template, text) in [
            ("{{.Id}}", "abc"),
            ("{{ .State.Code }}!", "3!"),
            ("{{json .Names}}", r#"["x","y"]"#),
            ("{{.Names}}", "[x y]"),
            ("{{len .Names}}", "2"),
            (r#"{{index .Labels "a.b"}}"#, "c"),
            ("{{index .Names 1}}", "y"),
            ("{{range .Names}}<{{.}}>{{end}}", "<x><y>"),
            ("{{range $k, $v := .Labels}}{{$k}}={{$v}}{{end}}", "a.b=c"),
            ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
            ("{{if not .State.Running}}up{{else}}down{{end}}", "down"),
            (r#"{{join .Names ","}}"#, "x,y"),
            ("{{.Id | upper}}", "ABC"),
            (r#"{{if eq .Id "abc"}}yes{{end}}"#, "yes"),
            ("{{with .State}}{{.Code}}{{end}}", "3"),
            ("{{.None}}", "<no value>"),
            ("{{with .None}}x{{else}}none{{end}}", "none"),
            ("{{if eq .Id \"x\"}}x{{else if .State.Running}}second{{else}}third{{end}}", "second"),
            ("{{$x := .State}}{{$x.Code}}", "3"),
            ("{{range $i, $n := .Names}}{{if $i}},{{end}}{{$n}}{{end}}", "x,y"),
            ("{{range .Nobody}}x{{else}}empty{{end}}", "empty"),
            ("{{/* said to nobody */}}a", "a"),
            (
                r#"{{printf "%-5s|%5d|%q|%v|%t" .Id .State.Code .Id .Names .State.Running}}"#,
                "abc  |    3|\"abc\"|[x y]|true",
            ),
            (r#"{{printf "%05d %x %.2f %%" 7 255 1.5}}"#, "00007 ff 1.50 %"),
            (r#"{{title "some words"}}"#, "Some Words"),
            (r#"{{index (split "a:b:c" ":") 1}}"#, "b"),
            (r"{{if and .Id (gt .State.Code 2)}}yes{{end}}", "yes"),
            (r"{{if or false (le .State.Code 2)}}yes{{else}}no{{end}}", "no"),
            (r"{{truncate .Id 2}}|{{pad .Id 1 2}}|{{slice .Id 1 3}}", "ab| abc  |bc"),
            (r"{{println .Id}}", "abc\n"),
            (r"{{range .Names}}{{println .}}{{end}}", "x\ny\n"),
            (r#"{{.Label "a.b"}}"#, "c"),
            ("{{.HostConfig.Binds}} {{.HostConfig.PidsLimit}} {{.HostConfig.Labels}}", "[] <nil> map[]"),
            ("a {{- .Id -}} b", "aabcb"),
            ("{{.Id}}\\t{{.Id}}", "abc\tabc"),
            ("{{(index .Names 0) | upper}}", "X"),
            (r"{{(index .List 1).Name}}-{{len (index .List 0).Name}}", "two-3"),
        ] {
            assert_eq!(Template::parse(template).unwrap().render(&value).unwrap(), text, "{template}");
        }
        for bad in [
            "{{.Id",
            "{{if .A}}",
            "{{nonsense .Id}}",
            "{{}}",
            "{{end}}",
            "{{\"x}}",
            "{{.nothing}}",
            "{{.None.deeper}}",
            "{{.Id.deeper}}",
            "{{if .Id}}{{else nonsense}}{{end}}",
            "{{$unknown}}",
            "{{index .Names 7}}",
        ] {
            let result = Template::parse(bad).and_then(|t| t.render(&value));
            assert!(result.is_err(), "{bad}");
        }
    }

    #[test]
    fn tables_are_aligned() {
        let text = table(vec!["A".into(), "LONG".into()], vec![vec!["wide cell".into(), "x".into()]]);
        assert_eq!(text, "A           LONG\nwide cell   x\n");
        assert_eq!(
            table(vec!["A".into(), "B".into()], vec![vec!["x".into(), String::new()]]),
            "A         B\nx         \n"
        );
    }
}
