//! `cargo xtask`: builds, runs and tests the whole of Wharf.
#![forbid(unsafe_code)]

mod plugins;
mod shell;
mod toolchain;

use anyhow::{Result, bail};

use crate::plugins::Profile;

const USAGE: &str = "\
usage: cargo xtask VERB

  plugins [--profile dev|release]     build the bundled plugins into components
  plugins --path DIR [--out DIR]      build a plugin crate that lives elsewhere";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Err(error) = dispatch(&arguments) {
        eprintln!("xtask: {error:#}");
        std::process::exit(1);
    }
}

fn dispatch(arguments: &[String]) -> Result<()> {
    let (verb, rest) =
        arguments.split_first().map_or(("help", &[][..]), |(verb, rest)| (verb.as_str(), rest));
    match verb {
        "plugins" => {
            let options = Options::parse(rest, &["profile", "path", "out"])?;
            if let Some(path) = options.get("path") {
                let out = options.get("out").unwrap_or(".");
                let component = plugins::build_one(path.as_ref(), out.as_ref())?;
                println!("{}", component.display());
            } else {
                println!("{}", plugins::build_bundled(options.profile()?)?.display());
            }
            Ok(())
        }
        "help" | "--help" | "-h" => {
            println!("{USAGE}");
            Ok(())
        }
        other => bail!("unknown verb `{other}`\n{USAGE}"),
    }
}

/// `--name value` and `--name=value`, nothing else.
struct Options(Vec<(String, String)>);

impl Options {
    fn parse(arguments: &[String], known: &[&str]) -> Result<Self> {
        let mut found = Vec::new();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let Some(name) = argument.strip_prefix("--") else {
                bail!("unknown argument `{argument}`\n{USAGE}")
            };
            let (name, value) = match name.split_once('=') {
                Some((name, value)) => (name, value.to_owned()),
                None => (name, rest.next().cloned().unwrap_or_default()),
            };
            if !known.contains(&name) {
                bail!("unknown option `--{name}`\n{USAGE}");
            }
            if value.is_empty() {
                bail!("`--{name}` needs a value");
            }
            found.push((name.to_owned(), value));
        }
        Ok(Self(found))
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn profile(&self) -> Result<Profile> {
        match self.get("profile") {
            None | Some("dev" | "debug") => Ok(Profile::Dev),
            Some("release") => Ok(Profile::Release),
            Some(other) => bail!("unknown profile `{other}`: dev or release"),
        }
    }
}
