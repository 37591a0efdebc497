//! `culvert-gateway`: arguments, logs, configuration, then one of the commands.

use std::process::ExitCode;

use clap::Parser;
use culvert_gateway::{
    cli::{Cli, Command},
    config, dev,
    exit::Failure,
    logs::{self, LogFile},
    out, serve,
    signals::Signals,
    verbs,
};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return explain(&error),
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => match out::complain(&failure.to_string()) {
            Ok(()) => failure.exit_code(),
            Err(_) => ExitCode::from(70),
        },
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Command::Dev(args) => {
            logs::start(&LogFile::default()).map_err(Failure::Usage)?;
            until_second_signal(|signals| dev::run(args, signals))
        }
        Command::Serve(args) => {
            let file = config::read(&args.config).map_err(|error| Failure::usage(&error))?;
            let level = logs::start(&file.log).map_err(Failure::Usage)?;
            until_second_signal(|signals| serve::run(args.config, file, level, signals))
        }
        Command::Verb(verb) => runtime()?.block_on(verbs::run(verb)),
    }
}

/// The first signal drains; a second one ends the process as it is.
fn until_second_signal<F>(command: impl FnOnce(Signals) -> F) -> Result<(), Failure>
where
    F: Future<Output = Result<(), Failure>>,
{
    let runtime = runtime()?;
    let ended = runtime.block_on(async {
        let install = || Signals::install().map_err(|error| Failure::internal(&error));
        let (first, mut second) = (install()?, install()?);
        tokio::select! {
            ended = Box::pin(command(first)) => ended,
            () = async { second.next().await; second.next().await } => Ok(()),
        }
    });
    runtime.shutdown_background();
    ended
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::internal(&error))
}

/// Help is no failure; everything else that clap says is one of usage.
fn explain(error: &clap::Error) -> ExitCode {
    let text = error.render().to_string();
    let (said, code) = match error.use_stderr() {
        true => (out::complain(text.trim_end()), 64),
        false => (out::print(text.trim_end()), 0),
    };
    ExitCode::from(if said.is_ok() { code } else { 70 })
}
