//! `cargo xtask`: builds, runs and tests the whole of Wharf.
#![forbid(unsafe_code)]

mod build;
mod daemon;
mod features;
mod needs;
mod newer;
mod plugins;
mod run;
mod shell;
mod shim;
mod test;
mod toolchain;

use anyhow::{Result, bail};

use crate::plugins::Profile;

const USAGE: &str = "\
usage: cargo xtask VERB [--profile dev|release]

  build                            the host's programs and the bundled plugins
  run [-- ARGS]                    builds everything, starts a daemon of its own, runs the hello image in it or the
                                   `wharf` command line ARGS, and cleans up
  test [-- ARGS]                   builds everything and runs every test; ARGS go to the test runner
  features                         what `build` tells cargo of features, after installing what they need
  plugins                          the bundled plugins alone
  plugins --path DIR [--out DIR]   a plugin crate that lives elsewhere";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let code = dispatch(&arguments).unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        1
    });
    std::process::exit(code);
}

fn dispatch(arguments: &[String]) -> Result<i32> {
    let (verb, rest) =
        arguments.split_first().map_or(("help", &[][..]), |(verb, rest)| (verb.as_str(), rest));
    let (own, further) = match rest.iter().position(|argument| argument == "--") {
        Some(at) => (rest.get(..at).unwrap_or_default(), rest.get(at + 1..).unwrap_or_default()),
        None => (rest, &[][..]),
    };
    let options = |known: &[&str]| Options::parse(own, known);
    match verb {
        "build" => println!("{}", build::everything(options(&["profile"])?.profile()?)?.display()),
        "run" => return run::run(options(&["profile"])?.profile()?, further),
        "test" => return test::run(options(&["profile"])?.profile()?, further),
        "plugins" => {
            let options = options(&["profile", "path", "out"])?;
            let done = match options.get("path") {
                Some(path) => plugins::build_one(path.as_ref(), options.get("out").unwrap_or(".").as_ref())?,
                None => plugins::build_bundled(options.profile()?)?,
            };
            println!("{}", done.display());
        }
        "features" => println!("{}", features::arguments().join(" ")),
        "help" | "--help" | "-h" => println!("{USAGE}"),
        other => bail!("unknown verb `{other}`\n{USAGE}"),
    }
    Ok(0)
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
