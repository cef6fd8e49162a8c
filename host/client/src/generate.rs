//! Completions of shells and manual pages, made from the command line's own description.

use std::path::Path;

use clap::{Command, CommandFactory};
use clap_complete::Shell;

use crate::Error;
use crate::args::{Cli, CompletionArgs, ManArgs};

fn command() -> Command {
    Cli::command().name("wharf")
}

/// Prints the completion script of a shell.
pub(crate) fn completion(args: &CompletionArgs) -> Result<u8, Error> {
    let shell = match args.shell.as_str() {
        "bash" => Shell::Bash,
        "zsh" => Shell::Zsh,
        "fish" => Shell::Fish,
        other => return Err(Error::Usage(format!("no completion for '{other}': bash, zsh or fish"))),
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), "wharf", &mut script);
    std::io::Write::write_all(&mut std::io::stdout(), &script)?;
    Ok(0)
}

/// Writes a page for the program and one for each command into a directory, or prints the program's.
pub(crate) fn man(args: &ManArgs) -> Result<u8, Error> {
    let mut command = command();
    command.build();
    match &args.directory {
        None => clap_mangen::Man::new(command).render(&mut std::io::stdout())?,
        Some(directory) => {
            std::fs::create_dir_all(directory)?;
            pages(&command, "wharf", directory)?;
        }
    }
    Ok(0)
}

fn pages(command: &Command, name: &str, directory: &Path) -> Result<(), Error> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    std::fs::write(directory.join(format!("{name}.1")), page)?;
    command
        .get_subcommands()
        .filter(|sub| sub.get_name() != "help")
        .try_for_each(|sub| pages(sub, &format!("{name}-{}", sub.get_name()), directory))
}
