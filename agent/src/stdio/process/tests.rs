//! Processes as they begin and end.

use rustix::process::test_kill_process;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};

use super::*;
use crate::Secret;
use crate::stdio::account::Account;

const QUICK: Duration = Duration::from_millis(100);

fn pace() -> Pace {
    Pace {
        close: QUICK,
        term: QUICK,
        ..Pace::default()
    }
}

fn shell(script: &str) -> StdioSpec {
    StdioSpec::new(vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()])
}

fn spawn(spec: &StdioSpec) -> (Process, Pipes) {
    Process::spawn(spec).expect("a process")
}

async fn output(spec: &StdioSpec) -> String {
    let (mut process, mut pipes) = spawn(spec);
    drop(pipes.stdin);
    let mut text = String::new();
    pipes
        .stdout
        .read_to_string(&mut text)
        .await
        .expect("output");
    process.exited().await.expect("an end");
    text
}

async fn line(pipes: &mut Pipes) -> String {
    let mut line = String::new();
    BufReader::new(&mut pipes.stdout)
        .read_line(&mut line)
        .await
        .expect("a line");
    line.trim().to_owned()
}

fn lives(pid: &str) -> bool {
    let pid = Pid::from_raw(pid.parse().expect("a number")).expect("not 0");
    test_kill_process(pid).is_ok()
}

/// Orphans are buried by whoever takes them in, in its own time.
async fn until_gone(pid: &str) {
    let gone = async {
        while lives(pid) && !is_zombie(pid) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone)
        .await
        .expect("it is killed");
}

fn is_zombie(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        stat.rsplit(')')
            .next()
            .is_some_and(|rest| rest.trim().starts_with('Z'))
    })
}

#[tokio::test]
async fn the_environment_is_what_is_named() {
    let mut spec = shell("env");
    spec.env
        .insert("TOKEN".to_owned(), Secret::new("t".to_owned()));
    let output = output(&spec).await;
    let mut names: Vec<&str> = output
        .lines()
        .filter_map(|line| line.split('=').next())
        // The shell's own.
        .filter(|name| !["PWD", "OLDPWD", "SHLVL", "_"].contains(name))
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["HOME", "PATH", "TOKEN"]);
    spec.env
        .insert("PATH".to_owned(), Secret::new("/nowhere".to_owned()));
    let error = Process::spawn(&spec).expect_err("no program");
    assert!(error.to_string().contains("`sh`"), "{error}");
}

#[tokio::test]
async fn a_directory_of_its_own_is_empty_and_goes_with_it() {
    let (mut process, mut pipes) = spawn(&shell("pwd; ls -A; touch left; cat"));
    let within = line(&mut pipes).await;
    assert!(Path::new(&within).is_dir(), "{within}");
    drop(pipes);
    process.exited().await.expect("an end");
    drop(process);
    assert!(!Path::new(&within).exists(), "{within}");
    let mut named = shell("pwd");
    named.cwd = Some(PathBuf::from("/"));
    assert_eq!(output(&named).await, "/\n");
}

#[tokio::test]
async fn closing_the_input_is_enough_for_a_good_server() {
    let (process, pipes) = spawn(&shell("trap 'exit 3' TERM; cat"));
    let pid = process.id().to_string();
    drop(pipes.stdin);
    let began = tokio::time::Instant::now();
    let patient = Pace {
        close: Duration::from_secs(60),
        ..pace()
    };
    process.end(&patient).await;
    assert!(
        began.elapsed() < Duration::from_secs(30),
        "not even SIGTERM"
    );
    assert!(!lives(&pid), "and it is buried");
}

#[tokio::test]
async fn one_that_hears_no_signal_is_killed_with_its_children() {
    let stubborn = "trap '' TERM; sh -c 'trap \"\" TERM; echo $$; while :; do sleep 1000; done' & wait; while :; do sleep 1000; done";
    let (process, mut pipes) = spawn(&shell(stubborn));
    let pid = process.id().to_string();
    let grandchild = line(&mut pipes).await;
    assert!(lives(&grandchild));
    drop(pipes.stdin);
    process.end(&pace()).await;
    assert!(!lives(&pid));
    until_gone(&grandchild).await;
}

#[tokio::test]
async fn what_a_server_leaves_behind_ends_with_it() {
    let (mut process, mut pipes) = spawn(&shell("sleep 1000 & echo $!"));
    let left = line(&mut pipes).await;
    let status = process.exited().await.expect("an end");
    assert!(status.success());
    until_gone(&left).await;
    // Nobody holds its output open any more.
    let mut rest = Vec::new();
    pipes.stdout.read_to_end(&mut rest).await.expect("an end");
}

#[tokio::test]
async fn one_that_is_dropped_is_killed() {
    let (process, mut pipes) = spawn(&shell("sleep 1000 & echo $!; wait"));
    let (pid, grandchild) = (process.id().to_string(), line(&mut pipes).await);
    drop(process);
    until_gone(&grandchild).await;
    until_gone(&pid).await;
}

#[tokio::test]
async fn memory_has_a_limit() {
    let mut spec = shell("read go; x=$(head -c 200000000 /dev/zero | tr '\\0' x); echo ${#x}");
    spec.limits.memory = Some(64 << 20);
    let (mut process, mut pipes) = spawn(&spec);
    pipes.stdin.write_all(b"go\n").await.expect("it reads");
    let status = process.exited().await.expect("an end");
    assert!(!status.success(), "{status}");
    spec.limits.memory = Some(u64::MAX / 2);
    let (mut process, mut pipes) = spawn(&spec);
    pipes.stdin.write_all(b"go\n").await.expect("it reads");
    assert_eq!(line(&mut pipes).await, "200000000");
    process.exited().await.expect("an end");
}

#[tokio::test]
async fn another_user_needs_root() {
    let mut spec = shell("id -u; id -g; id -G; ls -ld .; touch mine; ls -A; echo $HOME");
    spec.account = Some(Account {
        name: "test".to_owned(),
        uid: 65_533,
        gid: 65_532,
        home: Some(PathBuf::from("/srv/x")),
    });
    if getuid().is_root() {
        let output = output(&spec).await;
        let lines: Vec<&str> = output.lines().collect();
        assert_eq!(lines[..3], ["65533", "65532", "65532"], "{output}");
        assert!(lines[3].starts_with("drwx------"), "{output}");
        assert_eq!(lines[4..], ["mine", "/srv/x"], "{output}");
        assert!(!shares_account(&spec));
    } else {
        assert!(Process::spawn(&spec).is_err());
    }
    assert!(shares_account(&shell("true")));
}
