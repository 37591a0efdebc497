//! The programs as commands: exit codes, and messages that help.

use std::process::{Output, Stdio};

use culvert_tests::programs::Programs;
use culvert_tests::world::{Fixture, World};
use tokio::process::Command;

async fn run(program: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let folder = tempfile::TempDir::new().unwrap();
    let mut command = Command::new(Programs::built().await.unwrap().path(program));
    command
        .args(arguments)
        .env("XDG_CONFIG_HOME", folder.path())
        .env("XDG_STATE_HOME", folder.path());
    let output: Output = command.stdin(Stdio::null()).output().await.unwrap();
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    (output.status.code(), text)
}

#[tokio::test]
async fn mistakes_of_usage_exit_64() {
    for (program, arguments) in [
        ("culvert-agent", &["run", "--nonsense"][..]),
        ("culvert-agent", &["nonsense"]),
        ("culvert-agent", &["run", "--model", "no-url"]),
        ("culvert-agent", &["run", "--config", "/no/such/file.yaml"]),
        (
            "culvert-agent",
            &[
                "run",
                "--join",
                "not-a-token",
                "--model",
                "a=http://127.0.0.1:1/v1",
            ],
        ),
        ("culvert-gateway", &["dev", "--nonsense"]),
        (
            "culvert-gateway",
            &["serve", "--config", "/no/such/file.yaml"],
        ),
    ] {
        let (code, text) = run(program, arguments).await;
        assert_eq!(code, Some(64), "{program} {arguments:?}: {text}");
        assert!(
            !text.trim().is_empty(),
            "{program} {arguments:?} says nothing"
        );
    }
}

#[tokio::test]
async fn help_and_version_exit_0() {
    for program in ["culvert-agent", "culvert-gateway"] {
        for flag in ["--help", "--version"] {
            let (code, text) = run(program, &[flag]).await;
            assert_eq!(code, Some(0), "{program} {flag}: {text}");
        }
    }
}

async fn check(yaml: &str) -> (Option<i32>, String) {
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("agent.yaml");
    std::fs::write(&file, yaml).unwrap();
    run(
        "culvert-agent",
        &["check", "--config", file.to_str().unwrap()],
    )
    .await
}

#[tokio::test]
async fn check_names_line_and_column_of_what_it_does_not_know() {
    let (code, text) =
        check("services:\n  - name: llm\n    kind: model\n    uurl: http://127.0.0.1:1/v1\n").await;
    assert_eq!(code, Some(64), "{text}");
    assert!(text.contains("uurl") && text.contains("4:5"), "{text}");
}

#[tokio::test]
async fn keys_that_this_build_cannot_enforce_are_errors_that_say_so() {
    let service = "services:\n  - name: t\n    kind: mcp\n    url: http://127.0.0.1:1/mcp\n";
    let later = [
        (
            format!("{service}    proxy: http://proxy.internal:3128\n"),
            "proxy",
        ),
        (
            format!("{service}proxy: http://proxy.internal:3128\n"),
            "proxy",
        ),
        (format!("{service}nearest: 3\n"), "nearest"),
    ];
    for (yaml, key) in later {
        let (code, text) = check(&yaml).await;
        assert_eq!(code, Some(64), "{yaml}: {text}");
        let told = text.contains(&format!("`{key}`")) && text.contains("later release");
        assert!(told, "{yaml}: {text}");
    }
}

#[tokio::test]
async fn keys_that_another_kind_of_service_has_are_errors() {
    let model = "services:\n  - name: t\n    kind: model\n    url: http://127.0.0.1:1/v1\n";
    for key in [
        "read_only: true",
        "tools: { allow: [\"get_*\"] }",
        "command: [npx, a-server]",
    ] {
        let (code, text) = check(&format!("{model}    {key}\n")).await;
        let name = key.split(':').next().unwrap();
        assert_eq!(code, Some(64), "{key}: {text}");
        assert!(text.contains(name), "{key}: {text}");
    }
}

#[tokio::test]
async fn an_http_service_must_say_what_may_be_called() {
    let (code, text) =
        check("services:\n  - name: t\n    kind: http\n    url: http://127.0.0.1:1\n").await;
    assert_eq!(code, Some(64), "{text}");
    assert!(text.contains("allow"), "{text}");
}

#[tokio::test]
async fn check_tries_every_backend_and_shows_what_could_be_reached() {
    let backend = Fixture::start("model-backend").await.unwrap();
    let yaml = format!(
        "services:\n  - name: llm\n    kind: model\n    url: {}/v1\n",
        backend.url()
    );
    let (code, text) = check(&yaml).await;
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains("llm") && text.contains("demo-model"),
        "{text}"
    );
    let (code, text) =
        check("services:\n  - name: llm\n    kind: model\n    url: http://127.0.0.1:1/v1\n").await;
    assert_ne!(code, Some(0), "{text}");
}

#[tokio::test]
async fn the_verbs_of_an_operator_reach_the_admin_api() {
    let world = World::start().await.unwrap();
    let admin = [
        "--admin",
        world.gateway.admin_url(),
        "--admin-key",
        &world.gateway.line.admin_key,
    ];
    let verb = |words: &[&str]| {
        let words: Vec<String> = words
            .iter()
            .chain(&admin)
            .map(|word| (*word).to_owned())
            .collect();
        async move {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let (code, text) = run("culvert-gateway", &words).await;
            assert_eq!(code, Some(0), "{words:?}: {text}");
            text
        }
    };
    assert!(verb(&["status"]).await.contains("dev"));
    assert!(
        verb(&["get", "connector", "--tenant", "dev"])
            .await
            .contains("dev")
    );
    verb(&["connector", "create", "second", "--tenant", "dev"]).await;
    assert!(
        verb(&["connector", "token", "second", "--tenant", "dev"])
            .await
            .contains("cvjoin_")
    );
    assert!(
        verb(&["key", "create", "ci", "--tenant", "dev", "--all"])
            .await
            .contains("cvk_")
    );
    verb(&["key", "revoke", "ci", "--tenant", "dev"]).await;
    assert!(
        !verb(&["agent", "list", "--tenant", "dev"])
            .await
            .trim()
            .is_empty()
    );
    verb(&["connector", "revoke", "second", "--tenant", "dev"]).await;
    let (code, text) = run(
        "culvert-gateway",
        &[
            "status",
            "--admin",
            world.gateway.admin_url(),
            "--admin-key",
            "cvadm_wrong",
        ],
    )
    .await;
    assert_ne!(code, Some(0), "{text}");
}
