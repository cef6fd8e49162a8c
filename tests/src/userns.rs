//! What user namespaces need of `/etc`.

/// Files for [`Options::etc`](crate::Options::etc): these ranges, and the account `dockremap` beside the machine's own.
pub fn etc(subuid: &str, subgid: &str) -> Vec<(String, String)> {
    let accounts = |file: &str, line: &str| {
        let own = std::fs::read_to_string(file).expect(file);
        let others: Vec<&str> = own.lines().filter(|l| !l.starts_with("dockremap:")).collect();
        format!("{}\n{line}\n", others.join("\n"))
    };
    vec![
        ("subuid".into(), subuid.into()),
        ("subgid".into(), subgid.into()),
        ("passwd".into(), accounts("/etc/passwd", "dockremap:x:4990:4990::/:/usr/sbin/nologin")),
        ("group".into(), accounts("/etc/group", "dockremap:x:4990:")),
    ]
}
