//! Reads server-sent events off an answer.

use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;

/// One event.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) id: u64,
    pub(crate) data: Value,
}

/// The events of one answer.
pub(crate) struct Events {
    body: Incoming,
    text: String,
}

impl Events {
    pub(crate) fn of(answer: http::Response<Incoming>) -> Self {
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Self {
            body: answer.into_body(),
            text: String::new(),
        }
    }

    /// The next event, `None` at a clean end.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let event = parse(event);
                self.text = rest.to_owned();
                match event {
                    Some(event) => return Some(event),
                    None => continue,
                }
            }
            let frame = tokio::time::timeout(super::world::PATIENCE, self.body.frame()).await;
            let frame = frame.expect("no event in time")?.unwrap();
            self.text
                .push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
        }
    }
}

/// `None` for a comment.
fn parse(text: &str) -> Option<Event> {
    let field = |name: &str| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name}:")));
        line.map(|value| value.trim_start().to_owned())
    };
    Some(Event {
        name: field("event")?,
        id: field("id").map_or(0, |id| id.parse().unwrap()),
        data: serde_json::from_str(&field("data")?).unwrap(),
    })
}
