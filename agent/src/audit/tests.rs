use super::*;

fn spec(path: std::path::PathBuf, when_full: WhenFull) -> AuditSpec {
    AuditSpec {
        path,
        rotate: 1 << 20,
        keep: 2,
        when_full,
    }
}

fn line(service: &str) -> Line {
    Line {
        service: service.to_owned(),
        ..Line::default()
    }
}

#[tokio::test]
async fn every_line_is_there_once_the_senders_are_gone() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("audit.jsonl");
    let (audit, writer) = Audit::new(&spec(path.clone(), WhenFull::Drop));
    for n in 0..1_000 {
        let slot = audit.admit().expect("a slot");
        slot.write(line(&format!("s{n}")));
    }
    drop(audit);
    writer.run().await;
    let text = std::fs::read_to_string(&path).expect("the log");
    assert_eq!(text.lines().count(), 1_000);
    let first: serde_json::Value =
        serde_json::from_str(text.lines().next().expect("a line")).expect("json");
    assert_eq!(first["service"], "s0");
    assert_eq!(first["outcome"], "answered");
}

/// A path whose parent is a file stands for a disk that takes nothing.
#[tokio::test(start_paused = true)]
async fn a_disk_that_takes_nothing_loses_lines_or_refuses_calls() {
    let dir = tempfile::tempdir().expect("a directory");
    let blocked = dir.path().join("blocked");
    std::fs::write(&blocked, "").expect("a file");

    let (audit, writer) = Audit::new(&spec(blocked.join("audit.jsonl"), WhenFull::Drop));
    audit.admit().expect("a slot").write(line("a"));
    let kept = audit.clone();
    drop(audit);
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(writer.run());
    while kept.lost() == 0 {
        tokio::task::yield_now().await;
    }
    assert!(kept.is_failing());
    assert!(kept.admit().is_ok(), "drop never refuses");
    drop(kept);
    assert!(tasks.join_next().await.expect("a task").is_ok());

    let (audit, writer) = Audit::new(&spec(blocked.join("audit.jsonl"), WhenFull::Refuse));
    audit.admit().expect("a slot").write(line("a"));
    tasks.spawn(writer.run());
    while !audit.is_failing() {
        tokio::task::yield_now().await;
    }
    assert_eq!(audit.admit().err(), Some(AuditFull));
    // The disk takes lines again: so are calls, and nothing was lost.
    std::fs::remove_file(&blocked).expect("removed");
    let written = async {
        while audit.is_failing() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    let patience = std::time::Duration::from_secs(3_600);
    let in_time = tokio::time::timeout(patience, written).await;
    assert!(in_time.is_ok(), "the line is tried again");
    assert!(audit.admit().is_ok());
    assert_eq!(audit.lost(), 0);
    drop(audit);
    assert!(tasks.join_next().await.expect("a task").is_ok());
}

#[test]
fn a_full_queue_refuses_or_loses() {
    let dir = tempfile::tempdir().expect("a directory");
    let (audit, _writer) = Audit::new(&spec(dir.path().join("a"), WhenFull::Refuse));
    let slots: Vec<Slot> = (0..QUEUE_LINES)
        .map(|_| audit.admit().expect("a slot"))
        .collect();
    assert_eq!(audit.admit().err(), Some(AuditFull));
    audit.note(line("refused"));
    assert_eq!(audit.lost(), 1);
    drop(slots);
    assert!(audit.admit().is_ok());
}
