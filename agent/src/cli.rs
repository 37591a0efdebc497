//! Arguments: flags come before `CULVERT_*` variables, these before the file.

use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};

use crate::Secret;
use crate::config::{FlagServices, Flags};
use crate::error::AgentError;

/// Serves private models and MCP servers through links that it dials out.
#[derive(Debug, Parser)]
#[command(name = "culvert-agent", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Joins if there is no usable identity, then serves.
    Run(RunArgs),
    /// Redeems a join token and keeps the identity.
    Join(JoinArgs),
    /// Validates the file, tries every backend, shows what could be reached from outside.
    Check(ServiceArgs),
    /// Shows what a running agent says of itself.
    Status(StatusArgs),
    /// Stops calls to a service, or to all, until `resume`; those that have begun finish.
    Pause(SwitchArgs),
    /// Lets calls come again.
    Resume(SwitchArgs),
    /// Looks at join tokens.
    Token(TokenArgs),
}

/// Of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Services and where they are described.
    #[command(flatten)]
    pub services: ServiceArgs,
    /// A join token, `-` to read it from standard input, or `@FILE`.
    #[arg(
        long,
        value_name = "TOKEN|-|@FILE",
        env = "CULVERT_JOIN",
        hide_env_values = true
    )]
    pub join: Option<Secretive>,
    /// Writes the services of the flags to the file.
    #[arg(long)]
    pub save: bool,
}

/// What a configuration is made of.
#[derive(Debug, Args)]
pub struct ServiceArgs {
    /// The agent file [default: $XDG_CONFIG_HOME/culvert/agent.yaml, then /etc/culvert/agent.yaml].
    #[arg(long, value_name = "FILE", env = "CULVERT_CONFIG")]
    pub config: Option<PathBuf>,
    /// Where identity and audit log are kept [default: $XDG_STATE_HOME/culvert/agent].
    #[arg(long, value_name = "DIR", env = "CULVERT_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
    /// Health, metrics and status [default: 127.0.0.1:9091].
    #[arg(long, value_name = "ADDR", env = "CULVERT_HEALTH_LISTEN")]
    pub health_listen: Option<SocketAddr>,
    /// What is logged: a level, or a filter.
    #[arg(long, value_name = "FILTER", env = "CULVERT_LOG")]
    pub log: Option<String>,
    /// A service that speaks a model API, for example llama=http://localhost:8000/v1.
    #[arg(long, value_name = "NAME=URL", env = "CULVERT_MODEL")]
    pub model: Vec<String>,
    /// An MCP server over HTTP.
    #[arg(long, value_name = "NAME=URL", env = "CULVERT_MCP")]
    pub mcp: Vec<String>,
    /// Anything else over HTTP, for reading (GET and HEAD); a file can allow more.
    #[arg(long, value_name = "NAME=URL", env = "CULVERT_HTTP")]
    pub http: Vec<String>,
    /// An MCP server on standard streams that the agent runs, for example
    /// files='npx -y some-server /srv'.
    #[arg(long, value_name = "NAME=COMMAND", env = "CULVERT_MCP_STDIO")]
    pub mcp_stdio: Vec<String>,
}

/// Of `join`.
#[derive(Debug, Args)]
pub struct JoinArgs {
    /// The join token, `-` to read it from standard input, or `@FILE`.
    #[arg(
        value_name = "TOKEN|-|@FILE",
        env = "CULVERT_JOIN",
        hide_env_values = true
    )]
    pub token: Secretive,
    /// Services and where they are described.
    #[command(flatten)]
    pub services: ServiceArgs,
}

/// Of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Prints the document as JSON.
    #[arg(long)]
    pub json: bool,
    /// Where the agent is.
    #[command(flatten)]
    pub services: ServiceArgs,
}

/// Of `pause` and `resume`.
#[derive(Debug, Args)]
pub struct SwitchArgs {
    /// The service; all of them where none is named.
    #[arg(value_name = "SERVICE")]
    pub service: Option<String>,
    /// Where the agent is.
    #[command(flatten)]
    pub services: ServiceArgs,
}

/// Of `token`.
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// What to do with it.
    #[command(subcommand)]
    pub command: TokenCommand,
}

/// The verbs of `token`.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Shows what a join token says, without its secret. Asks nobody.
    Inspect {
        /// The join token, `-` to read it from standard input, or `@FILE`.
        #[arg(value_name = "TOKEN|-|@FILE")]
        token: Secretive,
    },
}

/// An argument that is a secret, or says where one is.
#[derive(Clone, Debug)]
pub struct Secretive(Secret);

impl std::str::FromStr for Secretive {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(Secret::new(text.to_owned())))
    }
}

/// Longest token that is read, in bytes.
const MAX_TOKEN_BYTES: u64 = 64 * 1024;

impl Secretive {
    /// The text itself, read from where the argument says.
    ///
    /// # Errors
    /// [`AgentError::Usage`] where it cannot be read.
    pub fn read(&self) -> Result<Secret, AgentError> {
        match self.0.expose() {
            "-" => bounded(std::io::stdin().lock(), Path::new("standard input")),
            text => match text.strip_prefix('@') {
                Some(path) => {
                    let path = Path::new(path);
                    let file = std::fs::File::open(path).map_err(|e| unreadable(path, &e))?;
                    bounded(file, path)
                }
                None => Ok(self.0.clone()),
            },
        }
    }
}

fn bounded(source: impl std::io::Read, path: &Path) -> Result<Secret, AgentError> {
    let mut text = String::new();
    source
        .take(MAX_TOKEN_BYTES)
        .read_to_string(&mut text)
        .map_err(|error| unreadable(path, &error))?;
    let secret = Secret::new(text.trim().to_owned());
    zeroize::Zeroize::zeroize(&mut text);
    Ok(secret)
}

fn unreadable(path: &Path, error: &std::io::Error) -> AgentError {
    AgentError::Usage(format!("{}: {error}", path.display()))
}

impl ServiceArgs {
    /// As the configuration takes them.
    pub fn flags(&self) -> Flags {
        Flags {
            config: self.config.clone(),
            join: None,
            state_dir: self.state_dir.clone(),
            health_listen: self.health_listen,
            log: self.log.clone(),
            save: false,
            added: FlagServices {
                model: self.model.clone(),
                mcp: self.mcp.clone(),
                http: self.http.clone(),
                mcp_stdio: self.mcp_stdio.clone(),
            },
        }
    }
}

impl RunArgs {
    /// As the configuration takes them, with the token.
    ///
    /// # Errors
    /// [`AgentError::Usage`] where the token cannot be read.
    pub fn flags(&self) -> Result<Flags, AgentError> {
        let join = self.join.as_ref().map(Secretive::read).transpose()?;
        Ok(Flags {
            join,
            save: self.save,
            ..self.services.flags()
        })
    }
}

impl Command {
    /// What all verbs that have a configuration share.
    pub fn services(&self) -> Option<&ServiceArgs> {
        match self {
            Self::Run(args) => Some(&args.services),
            Self::Join(args) => Some(&args.services),
            Self::Check(args) => Some(args),
            Self::Status(args) => Some(&args.services),
            Self::Pause(args) | Self::Resume(args) => Some(&args.services),
            Self::Token(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn services_may_be_repeated() {
        let cli = Cli::try_parse_from([
            "culvert-agent",
            "run",
            "--model",
            "a=http://h/v1",
            "--model",
            "b=http://i/v1",
            "--mcp",
            "t=http://m",
            "--join",
            "cvjoin_x",
        ])
        .expect("arguments");
        let Command::Run(args) = cli.command else {
            panic!("{cli:?}");
        };
        let flags = args.flags().expect("flags");
        assert_eq!((flags.added.model.len(), flags.added.mcp.len()), (2, 1));
        assert!(
            !format!("{args:?}").contains("cvjoin_x"),
            "the token is masked"
        );
    }

    #[test]
    fn a_token_can_stand_in_a_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("token");
        std::fs::write(&path, "cvjoin_abc\n").expect("written");
        let argument: Secretive = format!("@{}", path.display()).parse().expect("infallible");
        assert_eq!(argument.read().expect("read").expose(), "cvjoin_abc");
        let missing: Secretive = "@/none/such".parse().expect("infallible");
        assert!(matches!(missing.read(), Err(AgentError::Usage(_))));
    }
}
