use super::*;

const NONE: Sources = Sources {
    env: |name| (name == "VLLM_KEY").then(|| "k3y".to_owned()),
    file: |_| Err("no such file".to_owned()),
};

fn read_text(text: &str) -> Result<Config, ConfigError> {
    parse_text(text, &Flags::default(), &NONE)
}

fn message(text: &str) -> String {
    read_text(text).expect_err(text).to_string()
}

#[test]
fn the_documented_file_is_understood() {
    let config = read_text(
        r#"
state_dir: /var/lib/culvert
drain_timeout: 2m
health_listen: 127.0.0.1:0
planes: [ORF]
services:
  - name: llama
    kind: model
    urls: ["http://vllm.internal:8000/v1", "http://vllm2.internal:8000/v1"]
    headers: { authorization: "Bearer ${env:VLLM_KEY}" }
    pass: [x-tfy-metadata]
    models: [meta-llama/Llama-3.1-8B-Instruct]
    health: { path: /health, every: 5s }
    limits: { concurrency: 64, queue: 128, queue_wait: 10s }
  - name: tickets
    kind: mcp
    urls: ["https://mcp.internal/mcp"]
    tls: { server_name: mcp.internal }
    networks: [10.0.0.0/8, 192.168.1.1]
    connect_timeout: 1s
  - name: billing
    kind: http
    url: https://billing.internal
    allow: [{ methods: [GET], paths: ["/v1/invoices/*"] }]
audit: { path: calls.jsonl, rotate: 64MiB, keep: 8, when_full: refuse }
"#,
    )
    .expect("a config");
    let names: Vec<&str> = config.services.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["llama", "tickets", "billing"]);
    assert_eq!(config.services[0].limits.concurrency, Some(64));
    assert_eq!(config.services[0].urls[0].authority, "vllm.internal:8000");
    assert_eq!(config.services[0].urls.len(), 2);
    assert_eq!(config.audit.path, Path::new("/var/lib/culvert/calls.jsonl"));
    assert_eq!(config.audit.when_full, WhenFull::Refuse);
    assert_eq!(config.drain_timeout, Duration::from_secs(120));
    assert!(!format!("{config:?}").contains("k3y"), "secrets are masked");
}

#[test]
fn mistakes_are_named_with_line_and_column() {
    assert_eq!(
        message("services:\n  - name: a\n    kind: model\n    url: http://h/v1\n    modles: [x]\n")
            .split(' ')
            .next(),
        Some("5:5:")
    );
    assert!(
        message("stat_dir: /x\n").starts_with("1:1: "),
        "{}",
        message("stat_dir: /x\n")
    );
    assert!(
        message("services:\n  - name: A\n    kind: model\n    url: http://h\n")
            .starts_with("2:11: `A`")
    );
    assert!(
        message("services:\n  - name: a\n    kind: modle\n    url: http://h\n")
            .starts_with("3:11: `modle`")
    );
    assert!(message("services:\n  - name: a\n    kind: model\n").contains("has no `url`"));
    assert!(message("drain_timeout: 5\n").starts_with("1:16: "));
    assert!(message("a: [").starts_with("1:"), "{}", message("a: ["));
}

#[test]
fn keys_of_later_releases_are_errors_that_say_so() {
    let proxied =
        "services:\n  - name: a\n    kind: mcp\n    url: http://h/mcp\n    proxy: http://p\n";
    let proxied = message(proxied);
    assert!(
        proxied.starts_with("5:") && proxied.contains("later release"),
        "{proxied}"
    );
    assert!(message("nearest: 3\n").contains("later release"));
    assert!(read_text("post_quantum: require\n").is_ok());
    assert!(message("post_quantum: avoid\n").starts_with("1:15: "));
}

#[test]
fn tools_are_named_for_mcp_services() {
    let mcp =
        |more: &str| format!("services:\n  - {{ name: a, kind: mcp, url: 'http://h', {more} }}\n");
    let config = read_text(&mcp(
        "tools: { allow: ['search_*'], deny: [x] }, read_only: true",
    ));
    let services = config.expect("a config").services;
    let tools = services[0].tools.as_ref().expect("rules");
    assert_eq!(
        (tools.allow.len(), tools.deny.len(), tools.read_only),
        (1, 1, true)
    );
    // Less is not enough: what is allowed is named.
    assert!(message(&mcp("tools: { deny: [x] }")).contains("allow"));
    assert!(message(&mcp("tools: { allow: [''] }")).contains("pattern of names"));
    assert!(message(&mcp("tools: { allow: [a], alow: [b] }")).contains("alow"));
    assert!(
        read_text(&mcp("read_only: false"))
            .expect("a config")
            .services[0]
            .tools
            .is_none()
    );
    assert!(message(&mcp("read_only: yes please")).starts_with("2:"));
    for kind in ["model", "http"] {
        let text = mcp("tools: { allow: [x] }, allow: [{ methods: [GET], paths: [/x] }]");
        let text = text.replace("kind: mcp", &format!("kind: {kind}"));
        assert!(read_text(&text).is_err(), "{kind}");
    }
}

#[test]
fn a_required_caller_is_fully_described() {
    let model = |more: &str| {
        format!(
            "services:\n  - {{ name: a, kind: model, url: 'http://h', require_caller: {{ {more} }} }}\n"
        )
    };
    let all = "issuer: 'https://i', jwks: 'https://i/keys?x=1', audience: [c], claims: { groups: [a, 1], ok: true }, header: x-user-token";
    let services = read_text(&model(all)).expect("a config").services;
    let rule = services[0].require_caller.as_ref().expect("a rule");
    assert_eq!(
        rule.claims["groups"],
        [serde_json::json!("a"), serde_json::json!(1)]
    );
    assert_eq!(rule.claims["ok"], [serde_json::json!(true)]);
    assert_eq!(rule.header, "x-user-token");
    for (wrong, why) in [
        ("issuer: i, jwks: /k, audience: []", "without an audience"),
        ("issuer: i, jwks: /k", "audience"),
        (
            "issuer: i, jwks: 'http://i/keys', audience: [c]",
            "plain http",
        ),
        (
            "issuer: i, jwks: /k, audience: [c], header: x-culvert-user",
            "through a gateway",
        ),
        (
            "issuer: i, jwks: /k, audience: [c], claims: { a: { b: c } }",
            "a claim is",
        ),
        (
            "issuer: i, jwks: /k, audience: [c], audiences: [c]",
            "audiences",
        ),
    ] {
        let message = message(&model(wrong));
        assert!(message.contains(why), "{message}");
    }
}

#[test]
fn a_rate_is_calls_in_a_time() {
    let model = |rate: &str| {
        format!(
            "services:\n  - {{ name: a, kind: model, url: 'http://h', limits: {{ rate: {rate} }} }}\n"
        )
    };
    let config = read_text(&model("600/m")).expect("a config");
    let rate = config.services[0].limits.rate.expect("a rate");
    assert_eq!((rate.calls, rate.per), (600, Duration::from_secs(60)));
    assert!(
        message(&model("5")).starts_with("2:"),
        "{}",
        message(&model("5"))
    );
}

#[test]
fn read_only_leaves_what_reads() {
    let http = |methods: &str| {
        format!(
            "services:\n  - {{ name: a, kind: http, url: 'http://h', read_only: true, allow: [{{ methods: [{methods}], paths: [/x] }}] }}\n"
        )
    };
    let services = read_text(&http("GET, POST, OPTIONS"))
        .expect("a config")
        .services;
    let admits = |method| services[0].rules.admit(&method, "/x").is_ok();
    assert!(admits(http::Method::GET) && admits(http::Method::OPTIONS));
    assert!(!admits(http::Method::POST));
    assert!(message(&http("POST")).contains("none of them"));
    let model = "services:\n  - { name: a, kind: model, url: 'http://h', read_only: true }\n";
    assert!(message(model).contains("for mcp and http"));
}

#[test]
fn http_needs_its_allow_and_others_have_none() {
    assert!(message("services:\n  - { name: b, kind: http, url: 'http://h' }\n").contains("allow"));
    assert!(
        message("services:\n  - { name: b, kind: http, url: 'http://h', allow: [] }\n")
            .contains("allow")
    );
    assert!(
        message("services:\n  - { name: b, kind: mcp, url: 'http://h', allow: [] }\n")
            .contains("fixed rules")
    );
}

#[test]
fn an_mcp_service_has_one_url() {
    let text = "services:\n  - { name: a, kind: mcp, urls: ['http://h/mcp', 'http://i/mcp'] }\n";
    let error = read_text(text).expect_err("two urls");
    assert!(error.to_string().contains("one url"), "{error}");
}

#[test]
fn urls_that_hide_something_are_errors() {
    for url in [
        "ftp://h/x",
        "http://user:pw@h/v1",
        "http://h/v1?x=1",
        "http://h/a%2e%2e;x/v1",
        "h:8000",
    ] {
        let text = format!("services:\n  - {{ name: a, kind: model, url: '{url}' }}\n");
        assert!(read_text(&text).is_err(), "{url}");
    }
}

#[test]
fn loopback_is_what_the_url_says() {
    let loopback = |url: &str| {
        let text = format!("services:\n  - {{ name: a, kind: model, url: '{url}' }}\n");
        read_text(&text).expect(url).services[0].urls[0].loopback
    };
    assert!(loopback("http://localhost:1/v1"));
    assert!(loopback("http://127.0.0.1/v1"));
    assert!(loopback("http://[::1]:8000/v1"));
    assert!(!loopback("http://vllm.internal/v1"));
    assert!(!loopback("http://localhost.example.com/v1"));
}

#[test]
fn secrets_never_stand_in_messages() {
    let text = "services:\n  - name: a\n    kind: model\n    url: http://h\n    headers: { x: \"a\\nb${env:VLLM_KEY}\" }\n";
    let message = message(text);
    assert!(
        message.contains('x') && !message.contains("k3y"),
        "{message}"
    );
}

#[test]
fn flags_add_and_never_replace() {
    let flags = Flags {
        added: FlagServices {
            model: vec!["a=http://localhost:8000/v1".to_owned()],
            ..FlagServices::default()
        },
        ..Flags::default()
    };
    let config = parse_text("", &flags, &NONE).expect("a config");
    assert_eq!(config.services.len(), 1);
    let twice = parse_text(
        "services:\n  - { name: a, kind: mcp, url: 'http://h' }\n",
        &flags,
        &NONE,
    );
    assert!(twice.expect_err("twice").message.contains("twice"));
    let http = Flags {
        added: FlagServices {
            http: vec!["b=http://h".to_owned()],
            ..FlagServices::default()
        },
        ..Flags::default()
    };
    let config = parse_text("", &http, &NONE).expect("a config");
    let admit = |method| config.services[0].rules.admit(&method, "/x/y").is_ok();
    assert!(
        admit(http::Method::GET) && !admit(http::Method::POST),
        "a flag allows reading"
    );
}

#[test]
fn same_service_twice_is_an_error() {
    let text = "services:\n  - { name: a, kind: mcp, url: 'http://h' }\n  - { name: a, kind: mcp, url: 'http://i' }\n";
    assert!(message(text).starts_with("3:"), "{}", message(text));
}

#[test]
fn what_is_saved_reads_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("conf/agent.yaml");
    let mut flags = Flags {
        config: Some(path.clone()),
        added: FlagServices {
            model: vec!["a=http://localhost:8000/v1".to_owned()],
            ..FlagServices::default()
        },
        ..Flags::default()
    };
    assert!(
        load(&flags, &NONE).is_err(),
        "a file that is named has to be there"
    );
    flags.save = true;
    assert_eq!(load(&flags, &NONE).expect("a config").services.len(), 1);
    assert_eq!(save(&flags).as_ref(), Ok(&path));
    flags.added = FlagServices {
        mcp: vec!["t=http://localhost:9000/mcp".to_owned()],
        ..FlagServices::default()
    };
    assert_eq!(save(&flags).as_ref(), Ok(&path));
    flags.added = FlagServices::default();
    let config = load(&flags, &NONE).expect("a config");
    let names: Vec<&str> = config.services.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["a", "t"]);
}
