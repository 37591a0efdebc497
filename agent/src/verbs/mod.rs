//! The verbs of the command line.

mod check;
mod pause;
mod status;
mod token;

use std::time::{Duration, Instant};

use culvert_certs::JoinToken;
use culvert_certs::store::{CredentialStore, StoreError};

use crate::cli::{Command, JoinArgs, RunArgs, SwitchArgs, TokenCommand};
use crate::config::{self, Config, Sources};
use crate::error::{AgentError, chain};
use crate::{Secret, identity, logs, out, supervisor};

/// How long the state directory's last user may take to end.
const PREDECESSOR: Duration = Duration::from_secs(5);
/// How often it is looked whether it has.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Carries a verb out.
///
/// # Errors
/// [`AgentError`], whose exit code is the process's.
pub async fn carry_out(command: Command) -> Result<(), AgentError> {
    match command {
        Command::Run(args) => run(args).await,
        Command::Join(args) => join(args).await,
        Command::Check(args) => {
            let mut flags = args.flags();
            // What is found out is printed; a log beside it would say it twice.
            flags.log.get_or_insert_with(|| "error".to_owned());
            let config = configured(&flags)?;
            check::check(&config).await
        }
        Command::Status(args) => {
            let config = configured(&args.services.flags())?;
            status::status(config.health_listen, args.json).await
        }
        Command::Pause(args) => switch(pause::Turn::Pause, &args).await,
        Command::Resume(args) => switch(pause::Turn::Resume, &args).await,
        Command::Token(args) => match args.command {
            TokenCommand::Inspect { token } => token::inspect(&parse(&token.read()?)?),
        },
    }
}

async fn switch(turn: pause::Turn, args: &SwitchArgs) -> Result<(), AgentError> {
    let config = configured(&args.services.flags())?;
    pause::turn(turn, &config, args.service.as_deref()).await
}

async fn run(args: RunArgs) -> Result<(), AgentError> {
    let flags = args.flags()?;
    let config = configured(&flags)?;
    let token = config.join.as_ref().map(parse).transpose()?;
    if config.services.is_empty() {
        tracing::warn!("no service is configured: nothing will be offered");
    }
    let store = open(&config).await?;
    if args.save {
        let path = config::save(&flags)?;
        tracing::info!(path = %path.display(), "saved");
    }
    let identity = identity::obtain(&store, token.as_ref(), identity::JOIN_PATIENCE).await?;
    // What was saved is in the file now.
    let flags = if args.save {
        config::Flags {
            added: config::FlagServices::default(),
            save: false,
            ..flags
        }
    } else {
        flags
    };
    supervisor::run(config, flags, store, identity).await
}

async fn join(args: JoinArgs) -> Result<(), AgentError> {
    let config = configured(&args.services.flags())?;
    let token = parse(&args.token.read()?)?;
    let store = open(&config).await?;
    let stored = identity::obtain(&store, Some(&token), identity::JOIN_PATIENCE).await?;
    print(&format!(
        "joined as {}; `culvert-agent run` serves",
        stored.credentials.identity
    ))
}

/// The configuration, and logs as it says.
fn configured(flags: &config::Flags) -> Result<Config, AgentError> {
    let config = config::load(flags, &Sources::SYSTEM)?;
    logs::init(config.log.as_deref()).map_err(AgentError::Usage)?;
    Ok(config)
}

/// The state directory, locked. A predecessor that is just ending is waited for.
async fn open(config: &Config) -> Result<CredentialStore, AgentError> {
    let began = Instant::now();
    loop {
        match CredentialStore::open(&config.state_dir) {
            Err(StoreError::Locked(_)) if began.elapsed() < PREDECESSOR => {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            opened => return opened.map_err(|error| identity::state_error(&error)),
        }
    }
}

fn parse(token: &Secret) -> Result<JoinToken, AgentError> {
    token
        .expose()
        .parse()
        .map_err(|error: culvert_certs::token::TokenError| AgentError::Usage(chain(&error)))
}

fn print(text: &str) -> Result<(), AgentError> {
    out::print(text).map_err(|error| AgentError::Internal(format!("standard output: {error}")))
}
