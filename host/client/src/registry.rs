//! Commands about registries.

use std::io::{IsTerminal, Read as _, Write as _};

use hyper::Method;
use serde_json::{Value, json};

use crate::args::{LoginArgs, LogoutArgs, PullArgs, PushArgs, SaveArgs, SearchArgs};
use crate::attach::text;
use crate::containers::filters;
use crate::credentials::{Config, Login, key};
use crate::http::{self, Client};
use crate::images::split_reference;
use crate::{Error, error, format, progress, terminal};

const AUTH: &str = "X-Registry-Auth";

pub(crate) async fn pull(client: &Client, args: PullArgs) -> Result<u8, Error> {
    let (name, tag) = split_reference(&args.image);
    if args.all_tags && (!tag.is_empty() || args.image.contains('@')) {
        return Err(Error::Usage("tag can't be used with --all-tags/-a".into()));
    }
    let digest = args.image.contains('@');
    let default = tag.is_empty() && !digest && !args.all_tags;
    if default && !args.quiet {
        println!("Using default tag: latest");
    }
    let mut query =
        vec![("fromImage", name.to_owned()), ("tag", if default { "latest".into() } else { tag.to_owned() })];
    let platform = if args.all_platforms { Some("all".to_owned()) } else { args.platform };
    query.extend(platform.map(|p| ("platform", p)));
    let auth = Config::read()?.header(name).await?;
    let response =
        client.request_with(Method::POST, "/images/create", &query, None, &[(AUTH, &auth)]).await?;
    progress::show(response, args.quiet).await?;
    println!("{}", whole(&if default { format!("{name}:latest") } else { args.image.clone() }));
    Ok(0)
}

/// A reference with the registry and the directory that short names leave out.
fn whole(reference: &str) -> String {
    let (registry, rest) = match reference.split_once('/') {
        Some(("docker.io" | "index.docker.io", rest)) => ("docker.io", rest),
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
        _ => ("docker.io", reference),
    };
    let directory = if registry == "docker.io" && !rest.contains('/') { "library/" } else { "" };
    format!("{registry}/{directory}{rest}")
}

/// Pulls an image that a command needs.
pub(crate) async fn need(
    client: &Client,
    image: &str,
    platform: Option<&str>,
    quiet: bool,
) -> Result<(), Error> {
    let (name, tag) = split_reference(image);
    let tag = if tag.is_empty() && !image.contains('@') { "latest" } else { tag };
    let mut query = vec![("fromImage", name.to_owned()), ("tag", tag.to_owned())];
    query.extend(platform.map(|p| ("platform", p.to_owned())));
    let auth = match Config::read() {
        Ok(config) => config.header(name).await?,
        Err(_) => "e30=".to_owned(),
    };
    let response =
        client.request_with(Method::POST, "/images/create", &query, None, &[(AUTH, &auth)]).await?;
    progress::show(response, quiet).await
}

pub(crate) async fn push(client: &Client, args: PushArgs) -> Result<u8, Error> {
    let (name, tag) = split_reference(&args.image);
    if args.all_tags && !tag.is_empty() {
        return Err(Error::Usage("tag can't be used with --all-tags/-a".into()));
    }
    let default = tag.is_empty() && !args.all_tags;
    if default && !args.quiet {
        println!("Using default tag: latest");
    }
    let mut query = vec![("tag", if default { "latest".to_owned() } else { tag.to_owned() })];
    query.extend(args.platform.iter().map(|p| ("platform", p.clone())));
    let auth = Config::read()?.header(name).await?;
    let path = format!("/images/{name}/push");
    let response = client.request_with(Method::POST, &path, &query, None, &[(AUTH, &auth)]).await?;
    progress::show(response, args.quiet).await?;
    if args.quiet {
        println!("{}", args.image);
    }
    Ok(0)
}

fn line(prompt: &str) -> Result<String, Error> {
    print!("{prompt}");
    std::io::stdout().flush()?;
    let mut text = String::new();
    std::io::stdin().read_line(&mut text)?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

pub(crate) async fn login(client: &Client, args: LoginArgs) -> Result<u8, Error> {
    let server = args.server.as_deref().unwrap_or_default();
    let key = key(server);
    let mut config = Config::read()?;
    let known = if args.username.is_none() && args.password.is_none() && !args.password_stdin {
        config.get(&key).await?
    } else {
        None
    };
    let login = match known {
        Some(known) => {
            println!("Authenticating with existing credentials...");
            known
        }
        None => ask(&args)?,
    };
    let body = json!({
        "username": login.user, "password": login.password, "identitytoken": login.token, "serveraddress": key,
    });
    let answer = client.post("/auth", &[], Some(&body)).await?;
    let token = text(&answer, "/IdentityToken").to_owned();
    let kept = if token.is_empty() { login } else { Login { token, password: String::new(), ..login } };
    config.put(&key, &kept).await?;
    println!("{}", text(&answer, "/Status"));
    Ok(0)
}

fn ask(args: &LoginArgs) -> Result<Login, Error> {
    if args.password_stdin {
        let Some(user) = args.username.clone() else {
            return Err(Error::Usage("the --password-stdin option requires --username to be set".into()));
        };
        if args.password.is_some() {
            return Err(Error::Usage(
                "conflicting options: cannot specify both --password and --password-stdin".into(),
            ));
        }
        let mut password = String::new();
        std::io::stdin().take(64 << 10).read_to_string(&mut password)?;
        let password = password.trim_end_matches(['\r', '\n']).to_owned();
        return Ok(Login { user, password, token: String::new() });
    }
    let terminal = std::io::stdin().is_terminal();
    let user = match &args.username {
        Some(user) => user.clone(),
        None if terminal => line("Username: ")?,
        None => {
            return Err(Error::Usage("cannot ask for the user name: standard input is no terminal".into()));
        }
    };
    let password = match &args.password {
        Some(password) => {
            eprintln!("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
            password.clone()
        }
        None if terminal => {
            let hidden = terminal::Hidden::enter();
            let password = line("Password: ")?;
            drop(hidden);
            println!();
            password
        }
        None => {
            return Err(Error::Usage("cannot ask for the password: standard input is no terminal".into()));
        }
    };
    Ok(Login { user, password, token: String::new() })
}

pub(crate) async fn logout(args: LogoutArgs) -> Result<u8, Error> {
    let key = key(args.server.as_deref().unwrap_or_default());
    if Config::read()?.remove(&key).await? {
        println!("Removing login credentials for {key}");
    } else {
        println!("Not logged in to {key}");
    }
    Ok(0)
}

pub(crate) async fn search(client: &Client, args: SearchArgs) -> Result<u8, Error> {
    let mut query = vec![("term", args.term.clone()), ("limit", args.limit.unwrap_or(25).to_string())];
    if let Some(filters) = filters(&args.filter)? {
        query.push(("filters", filters));
    }
    let auth = Config::read()?.header(&args.term).await?;
    let response = client.request_with(Method::GET, "/images/search", &query, None, &[(AUTH, &auth)]).await?;
    let found = http::json(response).await?;
    let rows: Vec<Value> = found
        .as_array()
        .into_iter()
        .flatten()
        .map(|one| {
            let description: String = text(one, "/description").replace(['\n', '\r'], " ");
            let cut = !args.no_trunc && description.chars().count() > 45;
            let description =
                if cut { description.chars().take(44).chain(['…']).collect() } else { description };
            let ok = |key: &str| if one.get(key) == Some(&Value::Bool(true)) { "[OK]" } else { "" };
            json!({
                "Name": text(one, "/name"), "Description": description,
                "StarCount": one.get("star_count").and_then(Value::as_i64).unwrap_or(0).to_string(),
                "IsOfficial": ok("is_official"),
            })
        })
        .collect();
    let columns = [
        ("NAME", "Name"),
        ("DESCRIPTION", "Description"),
        ("STARS", "StarCount"),
        ("OFFICIAL", "IsOfficial"),
    ];
    format::print_list(&rows, &columns, args.format.as_deref())?;
    Ok(0)
}

pub(crate) async fn save(client: &Client, args: SaveArgs) -> Result<u8, Error> {
    use futures_util::StreamExt;
    use tokio::io::AsyncWriteExt;
    if args.output.is_none() && std::io::stdout().is_terminal() {
        return Err(Error::Usage(
            "cowardly refusing to save to a terminal. Use the -o flag or redirect".into(),
        ));
    }
    let mut query: Vec<(&str, String)> = args.images.iter().map(|image| ("names", image.clone())).collect();
    query.extend(args.platform.iter().map(|p| ("platform", p.clone())));
    let response = client.request(Method::GET, "/images/get", &query, None).await?;
    let mut data = http::data(response);
    let mut out: Box<dyn tokio::io::AsyncWrite + Send + Unpin> = match &args.output {
        Some(path) => Box::new(tokio::fs::File::create(path).await.map_err(error::file("open", path))?),
        None => Box::new(tokio::io::stdout()),
    };
    while let Some(chunk) = data.next().await {
        out.write_all(&chunk?).await?;
    }
    out.flush().await?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_references() {
        for (short, long) in [
            ("busybox:latest", "docker.io/library/busybox:latest"),
            ("docker.io/busybox:latest", "docker.io/library/busybox:latest"),
            ("index.docker.io/busybox@sha256:00", "docker.io/library/busybox@sha256:00"),
            ("docker.io/library/busybox:1", "docker.io/library/busybox:1"),
            ("me/app:1", "docker.io/me/app:1"),
            ("docker.io/me/app:1", "docker.io/me/app:1"),
            ("localhost/app:1", "localhost/app:1"),
            ("127.0.0.1:5000/app:1", "127.0.0.1:5000/app:1"),
            ("ghcr.io/me/app:1", "ghcr.io/me/app:1"),
        ] {
            assert_eq!(whole(short), long);
        }
    }
}
