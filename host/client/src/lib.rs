//! The `wharf` command line: docker's nouns, verbs and flags over the Docker Engine API of a local or remote daemon.
//!
//! Nothing here knows the engine: every command is one or a few requests, so it works against any Docker-compatible
//! daemon.
#![forbid(unsafe_code)]

mod args;
mod attach;
mod checkpoint;
mod connect;
mod containers;
mod copy;
mod create;
mod credentials;
mod df;
mod dial;
mod error;
mod exec;
mod format;
mod generate;
mod http;
mod image_tree;
mod images;
mod network_flag;
mod objects;
mod progress;
mod prune;
mod registry;
mod rest;
mod run;
mod stats;
mod system;
mod terminal;
mod transport;
mod units;
mod update;

use std::ffi::OsString;

use clap::Parser;

pub use error::Error;

/// Runs one command line (without the program's name) and gives the exit code of the process.
///
/// Codes follow docker's: the container's own for `run`, `exec`, `start -a`; 125 where the daemon refused; 126 and 127 where
/// the program could not be executed or found; 1 for other failures; 130 where a signal ended the command.
pub async fn main(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let program = std::iter::once(OsString::from("wharf"));
    let cli = match args::Cli::try_parse_from(program.chain(arguments)) {
        Ok(cli) => cli,
        Err(error) => {
            // Clap's own texts name the flag; help and version go to standard output.
            let _ = error.print();
            return if error.use_stderr() { 125 } else { 0 };
        }
    };
    match dispatch(cli).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("wharf: {error}");
            error.exit_code()
        }
    }
}

async fn dispatch(cli: args::Cli) -> Result<u8, Error> {
    // These need no daemon.
    match &cli.command {
        args::Command::Completion(a) => return generate::completion(a),
        args::Command::Man(a) => return generate::man(a),
        _ => {}
    }
    let starts_daemon = matches!(&cli.command, args::Command::Run(_));
    let client = connect::connect(&cli, starts_daemon).await?;
    perform(client, cli.command).await
}

async fn perform(client: http::Client, command: args::Command) -> Result<u8, Error> {
    use args::Command as C;
    match command {
        C::Run(a) => run::run(&client, a).await,
        C::Create(a) => run::create(&client, a).await,
        C::Exec(a) => exec::exec(&client, a).await,
        C::Attach(a) => attach::attach(&client, a).await,
        C::Checkpoint(a) => checkpoint::checkpoint(&client, a).await,
        C::Start(a) => containers::start(&client, a).await,
        C::Stop(a) => containers::stop(&client, a, "stop").await,
        C::Restart(a) => containers::stop(&client, a, "restart").await,
        C::Kill(a) => containers::kill(&client, a).await,
        C::Wait(a) => containers::wait(&client, a).await,
        C::Rm(a) => containers::remove(&client, a).await,
        C::Ps(a) => containers::list(&client, a).await,
        C::Logs(a) => containers::logs(&client, a).await,
        C::Pause(a) => containers::each(&client, &a.containers, "pause").await,
        C::Unpause(a) => containers::each(&client, &a.containers, "unpause").await,
        C::Rename(a) => containers::rename(&client, a).await,
        C::Top(a) if a.command.is_empty() => stats::stats(&client, args::StatsArgs::default()).await,
        C::Top(a) => containers::top(&client, a).await,
        C::Stats(a) => stats::stats(&client, a).await,
        C::Port(a) => containers::port(&client, a).await,
        C::Update(a) => update::update(&client, a).await,
        C::Prune(a) => prune::prune(&client, a).await,
        C::Df(a) => df::df(&client, a).await,
        C::Cp(a) => copy::cp(&client, a).await,
        C::Diff(a) => copy::diff(&client, a).await,
        C::Export(a) => copy::export(&client, a).await,
        C::Commit(a) => copy::commit(&client, a).await,
        C::Inspect(a) => objects::inspect(&client, a).await,
        C::Images(a) => images::list(&client, a).await,
        C::Import(a) => images::import(&client, a).await,
        C::Load(a) => images::load(&client, a).await,
        C::Pull(a) => registry::pull(&client, a).await,
        C::Push(a) => registry::push(&client, a).await,
        C::Login(a) => registry::login(&client, a).await,
        C::Logout(a) => registry::logout(a).await,
        C::Search(a) => registry::search(&client, a).await,
        C::Save(a) => registry::save(&client, a).await,
        C::Tag(a) => images::tag(&client, a).await,
        C::Rmi(a) => images::remove(&client, a).await,
        C::History(a) => images::history(&client, a).await,
        C::Version(a) => system::version(&client, a).await,
        C::Info(a) => system::info(&client, a).await,
        C::Events(a) => system::events(&client, a).await,
        C::DialStdio => dial::stdio(&client).await,
        C::Completion(a) => generate::completion(&a),
        C::Man(a) => generate::man(&a),
        C::Container { command } => Box::pin(perform(client, command.into())).await,
        C::Image { command } => Box::pin(perform(client, command.into())).await,
        C::System { command } => Box::pin(perform(client, command.into())).await,
        C::Network { command } => objects::network(&client, command).await,
        C::Volume { command } => objects::volume(&client, command).await,
    }
}
