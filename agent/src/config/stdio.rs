//! The keys of a server on stdio: `command`, and what goes with it.

use std::path::{Path, PathBuf};

use super::raw::{RawLimits, RawService, Text};
use super::service::ServiceKind;
use super::{ConfigError, Sources, fields, optional, units, value};
use crate::Secret;
use crate::stdio::{Account, Sharing, StdioLimits, StdioSpec};

/// Least memory that a process may be given, in bytes: below it hardly any program starts.
const MIN_MEMORY_BYTES: u64 = 16 << 20;

/// The server that a service runs, where it has a `command`.
pub(super) fn parse(
    raw: &RawService,
    kind: ServiceKind,
    sources: &Sources,
) -> Result<Option<StdioSpec>, ConfigError> {
    let Some(command) = &raw.command else {
        refuse_without_command(raw)?;
        return Ok(None);
    };
    if kind != ServiceKind::Mcp {
        return Err(ConfigError::at(
            command,
            "`command` is for mcp services: nothing else is spoken over standard streams",
        ));
    }
    refuse_with_command(raw)?;
    let at_command = |message: String| ConfigError::at(command, message);
    let mut words = Vec::new();
    for word in &command.value.0 {
        let text = super::expand::expand(word, sources).map_err(at_command)?;
        words.push((word.clone(), Secret::new(text)));
    }
    for word in raw.args.iter().flat_map(|args| &args.value) {
        words.push((word.value.clone(), Secret::new(value(word, sources)?)));
    }
    let (shown, command): (Vec<String>, Vec<Secret>) = words.into_iter().unzip();
    is_command(&shown, &command).map_err(at_command)?;
    let mut env = std::collections::BTreeMap::new();
    for (name, text) in raw.env.iter().flatten() {
        is_variable(name).map_err(|message| ConfigError::at(text, message))?;
        let content = value(text, sources)?;
        if content.contains('\0') {
            return Err(ConfigError::at(text, format!("`{name}` has a NUL")));
        }
        env.insert(name.clone(), Secret::new(content));
    }
    Ok(Some(StdioSpec {
        command,
        shown,
        env,
        cwd: optional(raw.cwd.as_ref(), sources, directory)?,
        account: optional(raw.user.as_ref(), sources, account)?,
        instances: optional(raw.instances.as_ref(), sources, |text| match text {
            "per_session" => Ok(Sharing::PerSession),
            "shared" => Ok(Sharing::Shared),
            _ => Err(format!("`{text}` is neither `per_session` nor `shared`")),
        })?
        .unwrap_or_default(),
        limits: limits(raw.limits.as_ref(), sources)?,
    }))
}

/// `NAME=command args`, split as a shell splits words: the name, and the words.
pub(super) fn from_flag(text: &str) -> Result<(&str, Vec<String>), String> {
    const HOW: &str = "write NAME=command args, for example files='npx -y some-server /srv'";
    let (name, command) = text.split_once('=').ok_or(HOW)?;
    let words = shlex::split(command).ok_or("a quote has no end")?;
    if words.first().is_none_or(String::is_empty) {
        return Err(HOW.to_owned());
    }
    Ok((name, words))
}

/// As the file has it: `${` begins a reference there.
pub(super) fn in_file(words: &[String]) -> Vec<String> {
    words.iter().map(|word| word.replace("${", "$${")).collect()
}

fn limits(raw: Option<&RawLimits>, sources: &Sources) -> Result<StdioLimits, ConfigError> {
    let default = StdioLimits::default();
    let Some(raw) = raw else {
        return Ok(default);
    };
    if let Some(zero) = raw.instances.as_ref().filter(|n| n.value == 0) {
        return Err(ConfigError::at(zero, "0 processes would serve nobody"));
    }
    Ok(StdioLimits {
        instances: raw
            .instances
            .as_ref()
            .map_or(default.instances, |n| n.value),
        idle: optional(raw.idle.as_ref(), sources, fields::positive)?.unwrap_or(default.idle),
        memory: optional(raw.memory.as_ref(), sources, |text| {
            let bytes = units::size(text)?;
            if bytes < MIN_MEMORY_BYTES {
                return Err(format!("`{text}` is less than {MIN_MEMORY_BYTES} bytes"));
            }
            Ok(bytes)
        })?,
    })
}

fn is_command(shown: &[String], command: &[Secret]) -> Result<(), String> {
    let program = command.first().map_or("", Secret::expose);
    if program.is_empty() {
        return Err("`command` names no program".to_owned());
    }
    if shown.len() == 1 && program.contains(char::is_whitespace) && !Path::new(program).exists() {
        return Err(format!(
            "`{}` is one word to the system: write a list, [program, argument, …]",
            shown[0]
        ));
    }
    match command.iter().any(|word| word.expose().contains('\0')) {
        true => Err("`command` has a NUL".to_owned()),
        false => Ok(()),
    }
}

fn is_variable(name: &str) -> Result<(), String> {
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err(format!("`{name}` is not the name of a variable"));
    }
    Ok(())
}

fn directory(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if !path.is_absolute() {
        return Err(format!(
            "`{text}` is not absolute: where the agent itself runs is chance"
        ));
    }
    match path.is_dir() {
        true => Ok(path),
        false => Err(format!("`{text}` is not a directory")),
    }
}

fn account(text: &str) -> Result<Account, String> {
    let account = Account::find(text)?;
    match account.can_be_taken() {
        true => Ok(account),
        false => Err("only an agent that runs as root runs a server as another user".to_owned()),
    }
}

/// Keys of a url, which a command does not have.
fn refuse_with_command(raw: &RawService) -> Result<(), ConfigError> {
    let place = |at: &Text| Err(ConfigError::at(at, "either `url` or `command`, not both"));
    if let Some(url) = &raw.url {
        return place(url);
    }
    let health = raw.health.as_ref().and_then(|health| health.path.as_ref());
    for (key, there) in [
        ("urls", raw.urls.is_some()),
        ("headers", !raw.headers.is_empty()),
        ("pass", !raw.pass.is_empty()),
        ("networks", raw.networks.is_some()),
        ("tls", raw.tls.is_some()),
        ("connect_timeout", raw.connect_timeout.is_some()),
        ("health.path", health.is_some()),
    ] {
        if there {
            return Err(ConfigError::at(
                &raw.name,
                format!("`{key}` belongs to a `url`; a `command` has no such thing"),
            ));
        }
    }
    Ok(())
}

/// Keys of a command, which a url does not have.
fn refuse_without_command(raw: &RawService) -> Result<(), ConfigError> {
    let limits = raw.limits.as_ref();
    for (key, there) in [
        ("args", raw.args.is_some()),
        ("env", raw.env.is_some()),
        ("cwd", raw.cwd.is_some()),
        ("user", raw.user.is_some()),
        ("instances", raw.instances.is_some()),
        (
            "limits.instances",
            limits.is_some_and(|l| l.instances.is_some()),
        ),
        ("limits.idle", limits.is_some_and(|l| l.idle.is_some())),
        ("limits.memory", limits.is_some_and(|l| l.memory.is_some())),
    ] {
        if there {
            return Err(ConfigError::at(
                &raw.name,
                format!("`{key}` belongs to a `command`, which this service does not have"),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Config, FlagServices, Flags, parse_text};
    use super::*;

    const FIXED: Sources = Sources {
        env: |name| (name == "TOKEN").then(|| "s3cret".to_owned()),
        file: |_| Err("no such file".to_owned()),
    };

    fn config(service: &str) -> Result<Config, ConfigError> {
        let text = format!("services:\n  - name: files\n    kind: mcp\n{service}");
        parse_text(&text, &Flags::default(), &FIXED)
    }

    fn spec(service: &str) -> StdioSpec {
        let config = config(service).unwrap_or_else(|error| panic!("{error}"));
        config.services[0].stdio.clone().expect("a server on stdio")
    }

    #[test]
    fn a_command_is_a_list_or_a_program_with_args() {
        for text in [
            "    command: [npx, -y, server, \"--token=${env:TOKEN}\"]\n",
            "    command: npx\n    args: [-y, server, \"--token=${env:TOKEN}\"]\n",
        ] {
            let spec = spec(text);
            let words: Vec<&str> = spec.command.iter().map(Secret::expose).collect();
            assert_eq!(words, ["npx", "-y", "server", "--token=s3cret"]);
            assert_eq!(spec.label(), "npx -y server --token=${env:TOKEN}");
            assert!(!format!("{spec:?}").contains("s3cret"));
        }
    }

    #[test]
    fn what_goes_with_it_is_read() {
        let spec = spec(
            "    command: [server]\n    env: { A: \"${env:TOKEN}\" }\n    cwd: /\n    user: \"0:0\"\n    instances: shared\n    limits: { instances: 3, idle: 5m, memory: 1GiB }\n",
        );
        assert_eq!(spec.env["A"].expose(), "s3cret");
        assert_eq!(spec.cwd.as_deref(), Some(Path::new("/")));
        assert_eq!(spec.instances, Sharing::Shared);
        let limits = StdioLimits {
            instances: 3,
            idle: Duration::from_secs(300),
            memory: Some(1 << 30),
        };
        assert_eq!(spec.limits, limits);
    }

    #[test]
    fn what_cannot_be_kept_is_an_error() {
        for (service, wanted) in [
            ("    url: http://h/\n    command: [x]\n", "not both"),
            ("    url: http://h/\n    args: [x]\n", "`args` belongs"),
            (
                "    url: http://h/\n    limits: { memory: 1GiB }\n",
                "`limits.memory` belongs",
            ),
            (
                "    command: [x]\n    headers: { a: b }\n",
                "`headers` belongs",
            ),
            (
                "    command: [x]\n    health: { path: /h }\n",
                "`health.path` belongs",
            ),
            ("    command: []\n", "no program"),
            ("    command: npx -y server\n", "write a list"),
            ("    command: [x]\n    cwd: here\n", "not absolute"),
            (
                "    command: [x]\n    cwd: /no/such/place\n",
                "not a directory",
            ),
            ("    command: [x]\n    user: nobody-like-that\n", "no user"),
            ("    command: [x]\n    instances: many\n", "neither"),
            (
                "    command: [x]\n    limits: { instances: 0 }\n",
                "0 processes",
            ),
            (
                "    command: [x]\n    limits: { memory: 1KiB }\n",
                "less than",
            ),
            (
                "    command: [x]\n    env: { \"A=B\": c }\n",
                "name of a variable",
            ),
            ("", "no `url`"),
        ] {
            let error = config(service).expect_err(service);
            assert!(error.to_string().contains(wanted), "{service}: {error}");
        }
        let text = "services:\n  - name: a\n    kind: http\n    command: [x]\n";
        let error = parse_text(text, &Flags::default(), &FIXED).expect_err("http");
        assert!(error.to_string().contains("mcp services"), "{error}");
    }

    #[test]
    fn a_flag_is_split_as_a_shell_would() {
        let flags = |text: &str| Flags {
            added: FlagServices {
                mcp_stdio: vec![text.to_owned()],
                ..FlagServices::default()
            },
            ..Flags::default()
        };
        let config = parse_text("", &flags("files=npx -y 'a server' --x=\"y z\""), &FIXED);
        let config = config.expect("a configuration");
        let spec = config.services[0].stdio.as_ref().expect("a server");
        assert_eq!(spec.shown, ["npx", "-y", "a server", "--x=y z"]);
        for bad in ["files", "files=", "files='x", "Files=x"] {
            assert!(parse_text("", &flags(bad), &FIXED).is_err(), "{bad}");
        }
        assert_eq!(in_file(&["${a}".to_owned()]), ["$${a}"]);
    }
}
