//! The command line.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};

/// The gateway of Culvert: callers on one side, the agents of private networks on the other.
#[derive(Debug, Parser)]
#[command(name = "culvert-gateway", version, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the program can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run everything in one process, with a tenant, a connector and keys made on the first run.
    Dev(DevArgs),
    /// Run the roles of a gateway file.
    Serve(ServeArgs),
    /// What operators do.
    #[command(flatten)]
    Verb(Verb),
}

/// Flags of `dev`.
#[derive(Debug, Args)]
pub struct DevArgs {
    /// Where everything is kept [default: $XDG_STATE_HOME/culvert/gateway].
    #[arg(long, value_name = "DIR", env = "CULVERT_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where callers are served, plain HTTP; port 0 takes any [default: 127.0.0.1:8080].
    #[arg(long, value_name = "ADDR", env = "CULVERT_LISTEN")]
    pub listen: Option<SocketAddr>,
    /// Where agents are served, TCP and UDP; callers too, over TLS [default: 127.0.0.1:8443].
    #[arg(long, value_name = "ADDR", env = "CULVERT_LINK_LISTEN")]
    pub link_listen: Option<SocketAddr>,
    /// Where the admin API, health and metrics are served.
    #[arg(
        long,
        value_name = "ADDR",
        env = "CULVERT_ADMIN_LISTEN",
        default_value = "127.0.0.1:9990"
    )]
    pub admin_listen: SocketAddr,
    /// Bind all addresses, and be known by this name or address.
    #[arg(long, value_name = "HOST", env = "CULVERT_ADVERTISE")]
    pub advertise: Option<String>,
    /// Print one line of JSON on standard output once it serves.
    #[arg(long)]
    pub print_json: bool,
}

/// Flags of `serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// The gateway file.
    #[arg(long, value_name = "FILE", env = "CULVERT_CONFIG")]
    pub config: PathBuf,
}

/// Which admin API, and with which key.
#[derive(Clone, Debug, Args)]
pub struct AdminArgs {
    /// The admin API [default: the one that `dev` last served].
    #[arg(long, value_name = "URL", env = "CULVERT_ADMIN_URL", global = true)]
    pub admin: Option<String>,
    /// The admin key [default: the one of `dev`].
    #[arg(
        long,
        value_name = "KEY",
        env = "CULVERT_ADMIN_KEY",
        global = true,
        hide_env_values = true
    )]
    pub admin_key: Option<String>,
    /// Where `dev` keeps everything.
    #[arg(long, value_name = "DIR", env = "CULVERT_DATA_DIR", global = true)]
    pub data_dir: Option<PathBuf>,
    /// The tenant [default: the one of `dev`].
    #[arg(long, value_name = "NAME", env = "CULVERT_TENANT", global = true)]
    pub tenant: Option<String>,
    /// Print what the API answered, as JSON.
    #[arg(long, global = true)]
    pub json: bool,
}

/// How a resource is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// As those need it who call it.
    Client,
}

/// What operators do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Create or change what a YAML file describes.
    Apply {
        /// The file, with one or more documents; - is standard input.
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
        /// Which admin API.
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Show resources of a kind, or one of them.
    Get {
        /// tenant, connector, agent, plane, key or admin-key.
        kind: String,
        /// Its name.
        name: Option<String>,
        /// `client`, of a connector: ready snippets for curl, SDKs and MCP clients.
        #[arg(short, long, value_name = "FORM", requires = "name")]
        output: Option<Output>,
        /// Which admin API.
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Delete a resource.
    Delete {
        /// As for `get`.
        kind: String,
        /// Its name.
        name: String,
        /// Which admin API.
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Connectors: private networks.
    Connector {
        /// What to do.
        #[command(subcommand)]
        verb: ConnectorVerb,
        /// Which admin API.
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Agents: processes in those networks.
    Agent {
        /// What to do.
        #[command(subcommand)]
        verb: AgentVerb,
        /// Which admin API.
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Planes: locations of the gateway.
    Plane {
        /// What to do.
        #[command(subcommand)]
        verb: PlaneVerb,
        /// Which admin API.
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// API keys of callers.
    Key {
        /// What to do.
        #[command(subcommand)]
        verb: KeyVerb,
        /// Which admin API.
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// What is configured, and which links there are.
    Status {
        /// Which admin API.
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// The audit log: who changed what, and who was refused.
    Audit {
        /// How far back, such as 24h, or a time [default: 24h].
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
        /// Which admin API.
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Backups of authority and configuration (not in this version).
    Backup {
        /// `create` or `restore`.
        action: String,
        /// Which admin API.
        #[command(flatten)]
        admin: AdminArgs,
    },
}

/// What can be done to a connector.
#[derive(Debug, Subcommand)]
pub enum ConnectorVerb {
    /// Create one.
    Create {
        /// Its name.
        name: String,
    },
    /// Mint a token with which one agent can join.
    Token {
        /// The connector.
        name: String,
        /// How long the token is good, such as 30m or 2h [default: 1h].
        #[arg(long, value_name = "TIME")]
        lifetime: Option<String>,
    },
    /// Revoke it with all its agents, for good.
    Revoke {
        /// The connector.
        name: String,
    },
}

/// What can be done to an agent.
#[derive(Debug, Subcommand)]
pub enum AgentVerb {
    /// List them.
    List,
    /// Revoke one, for good.
    Revoke {
        /// Its id.
        id: String,
    },
}

/// What can be done to a plane.
#[derive(Debug, Subcommand)]
pub enum PlaneVerb {
    /// Mint a token with which one replica can join.
    Token {
        /// The plane's zone.
        zone: String,
        /// How long the token is good.
        #[arg(long, value_name = "TIME")]
        lifetime: Option<String>,
    },
}

/// What can be done to an API key.
#[derive(Debug, Subcommand)]
pub enum KeyVerb {
    /// Create one; it is shown once.
    #[command(group(clap::ArgGroup::new("right").required(true).args(["allow", "all"])))]
    Create {
        /// Its name.
        name: String,
        /// What it may call: connector/service or connector/service:model, * for any.
        #[arg(long, value_name = "PATTERN")]
        allow: Vec<String>,
        /// It may call everything of the tenant.
        #[arg(long)]
        all: bool,
        /// When it stops working, RFC 3339.
        #[arg(long, value_name = "TIME")]
        expires: Option<String>,
        /// For people.
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
    },
    /// End one at once.
    Revoke {
        /// Its name.
        name: String,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_key_needs_a_right() {
        let parse = |args: &[&str]| {
            Cli::try_parse_from(["culvert-gateway", "key", "create", "k"].iter().chain(args))
                .is_ok()
        };
        assert!(!parse(&[]));
        assert!(parse(&["--all"]));
        assert!(parse(&["--allow", "dev/*", "--allow", "x/y:z"]));
        assert!(!parse(&["--all", "--allow", "dev/*"]));
    }
}
