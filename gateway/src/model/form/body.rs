//! A form whose `model` part has passed, and its way up.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, atomic::AtomicU64},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::{
    FormError,
    scan::{Found, Scanner},
};
use crate::{
    error::{CallerCode, Problem},
    held::{BodyBudget, HeldBody, Share},
    limit::{self, Announced, Streamed},
};

/// What is held of a form is rewritten into one piece up to this size, as JSON bodies are.
const COPY_LIMIT: usize = 64 * 1024;

/// A form, read up to the end of its `model` part at least.
pub struct Form<B> {
    /// What was read.
    held: HeldBody,
    found: Found,
    /// What of it may pass already; the scanner has the rest.
    settled: usize,
    scanner: Box<Scanner>,
    /// What has not been read, unless the form is whole.
    rest: Option<Streamed<B>>,
}

impl<B> Form<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    /// Reads a form until its model is known, by `until` where the caller has a deadline.
    pub async fn read(
        boundary: &[u8],
        (announced, until): (Announced, Option<Instant>),
        mut body: B,
        budget: &BodyBudget,
        count: Arc<AtomicU64>,
    ) -> Result<Self, Problem> {
        let mut scanner = Box::new(Scanner::new(boundary));
        let mut look = |piece: &[u8]| {
            scanner.feed(piece)?;
            Ok(scanner.model().is_some())
        };
        let reading = budget.hold_until((announced, until), &mut body, &count, &mut look);
        let begun = reading.await;
        let begun = begun.and_then(|(held, whole)| {
            if whole {
                scanner.finish()?;
            }
            let found = scanner.model().cloned().ok_or(FormError::Missing)?;
            Ok((held, whole, found))
        });
        let (held, whole, found) = match begun {
            Ok(begun) => begun,
            Err(problem) => {
                limit::drain(body).await;
                return Err(if problem.code() == CallerCode::BodyTooLarge {
                    FormError::TooLate.into()
                } else {
                    problem
                });
            }
        };
        let settled = usize::try_from(scanner.position()).unwrap_or(usize::MAX);
        Ok(Self {
            settled: if whole { held.bytes.len() } else { settled },
            held,
            found,
            scanner,
            rest: (!whole).then(|| Streamed::new(body, count)),
        })
    }
}

impl<B> Form<B> {
    /// The model that the caller named.
    pub fn model(&self) -> &str {
        &self.found.name
    }

    /// The form with `name` as its model, and by how much that changes its length.
    pub fn with_model(self, name: &str) -> (FormUp<B>, i64) {
        let HeldBody { bytes, share } = self.held;
        let first = pieces(bytes.slice(..self.settled), &self.found, name);
        let left: usize = first.iter().map(Bytes::len).sum();
        let change = signed(left) - signed(self.settled);
        let up = FormUp {
            first: first.into_iter(),
            left,
            share: Some(share),
            scanner: self.scanner,
            rest: self.rest,
            trailers: None,
        };
        (up, change)
    }
}

impl<B> fmt::Debug for Form<B> {
    /// Never the form.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Form")
            .field("held", &self.held.bytes.len())
            .field("model", &self.found.name)
            .finish_non_exhaustive()
    }
}

/// The beginning of a form with another text in its `model` part, and with the length that the part
/// declares of itself set right. A large one is not copied.
fn pieces(bytes: Bytes, found: &Found, name: &str) -> Vec<Bytes> {
    let mut edits = vec![(found.at.clone(), name.to_owned())];
    if let Some(length) = &found.length {
        edits.push((length.clone(), name.len().to_string()));
    }
    edits.sort_by_key(|(at, _)| at.start);
    let place = |position: u64| {
        let place = usize::try_from(position).unwrap_or(bytes.len());
        place.min(bytes.len())
    };
    let mut pieces = Vec::new();
    let mut from = 0;
    for (at, text) in edits {
        pieces.push(bytes.slice(from..place(at.start)));
        pieces.push(Bytes::from(text));
        from = place(at.end);
    }
    pieces.push(bytes.slice(from..));
    pieces.retain(|piece| !piece.is_empty());
    if bytes.len() <= COPY_LIMIT {
        return vec![Bytes::from(pieces.concat())];
    }
    pieces
}

fn signed(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

/// A form on its way up: what was held, then the rest as it comes, looked through for a second model.
pub struct FormUp<B> {
    first: std::vec::IntoIter<Bytes>,
    /// Bytes of `first`.
    left: usize,
    /// Their share of the budget: until more is asked for, what was handed out waits for the tunnel.
    share: Option<Share>,
    scanner: Box<Scanner>,
    rest: Option<Streamed<B>>,
    trailers: Option<Frame<Bytes>>,
}

impl<B: Body<Data = Bytes> + Unpin> FormUp<B> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Problem>>> {
        if let Some(bytes) = self.first.next() {
            self.left -= bytes.len();
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        self.share = None;
        loop {
            let Some(rest) = &mut self.rest else {
                return Poll::Ready(self.trailers.take().map(Ok));
            };
            let passed = match ready!(rest.poll(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(piece) => self.scanner.feed(&piece),
                    Err(trailers) => {
                        self.trailers = Some(trailers);
                        self.rest = None;
                        self.scanner.finish()
                    }
                },
                Some(Err(problem)) => {
                    self.rest = None;
                    return Poll::Ready(Some(Err(problem)));
                }
                None => {
                    self.rest = None;
                    self.scanner.finish()
                }
            };
            match passed {
                Ok(bytes) if bytes.is_empty() => {}
                Ok(bytes) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Err(error) => {
                    self.rest = None;
                    return Poll::Ready(Some(Err(error.into())));
                }
            }
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for FormUp<B> {
    type Data = Bytes;
    type Error = Problem;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Problem>>> {
        self.get_mut().poll(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0 && self.rest.is_none() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match self.rest {
            None => SizeHint::with_exact(self.left as u64),
            Some(_) => SizeHint::default(),
        }
    }
}

impl<B> fmt::Debug for FormUp<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FormUp").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use http_body_util::BodyExt;
    use prometheus_client::registry::Registry;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        held::{HELD_BUDGET, MAX_HELD_BODY},
        limit::script::Script,
        metrics::EdgeMetrics,
    };

    const BOUNDARY: &[u8] = b"x";

    fn part(head: &str, text: &str) -> String {
        format!("--x\r\nContent-Disposition: form-data; {head}\r\n\r\n{text}\r\n")
    }

    fn cut(form: &str, size: usize) -> Script {
        let pieces = form.as_bytes().chunks(size);
        Script::of(pieces.map(Bytes::copy_from_slice).collect())
    }

    async fn read(body: Script, count: &Arc<AtomicU64>) -> Result<Form<Script>, Problem> {
        let budget = BodyBudget::new(HELD_BUDGET, EdgeMetrics::new(&mut Registry::default()));
        let terms = (Announced::default(), None);
        Form::read(BOUNDARY, terms, body, &budget, Arc::clone(count)).await
    }

    async fn renamed(form: &str, size: usize, name: &str) -> Result<String, Problem> {
        let count = Arc::default();
        let (up, change) = read(cut(form, size), &count).await?.with_model(name);
        let out = up.collect().await?.to_bytes();
        assert_eq!(signed(out.len()), signed(form.len()) + change);
        assert_eq!(count.load(Ordering::Relaxed), form.len() as u64);
        Ok(String::from_utf8(out.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn only_the_name_changes_however_the_form_is_cut() {
        let form = |name: &str| {
            let first = part("name=\"prompt\"", "a model\r\n");
            let model = part("name=\"model\"", name);
            let file = part("name=\"file\"; filename=\"model\"", "RIFF\r\n--xx");
            format!("{first}{model}{file}--x--\r\n").replace("--xx", "-xx")
        };
        for size in 1..40 {
            let out = renamed(&form("dev/whisper"), size, "whisper-large-v3").await;
            assert_eq!(out.unwrap(), form("whisper-large-v3"), "{size}");
        }
    }

    #[tokio::test]
    async fn the_length_that_a_part_declares_of_itself_is_set_right() {
        let form = |name: &str| {
            let head = format!("name=\"model\"\r\nContent-Length: {}\r\nX: y", name.len());
            part(&head, name) + "--x--"
        };
        let out = renamed(&form("m"), 7, "long-name-10").await.unwrap();
        assert_eq!(out, form("long-name-10"));
    }

    #[tokio::test]
    async fn the_rest_is_not_waited_for() {
        let begun = part("name=\"model\"", "dev/m") + "--x\r\n";
        let count = Arc::default();
        let pieces = [begun.as_str(), "a: b\r\n\r\n", "file", "\r\n--x--"];
        let script = Script::of(
            pieces
                .map(|piece| Bytes::copy_from_slice(piece.as_bytes()))
                .into(),
        );
        let (mut up, _) = read(script, &count).await.unwrap().with_model("m");
        assert_eq!(count.load(Ordering::Relaxed), begun.len() as u64);
        let first = up.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(first.ends_with(b"\r\n\r\nm"));
        assert_eq!(
            up.collect().await.unwrap().to_bytes(),
            "\r\n--x\r\na: b\r\n\r\nfile\r\n--x--"
        );
    }

    #[tokio::test]
    async fn what_waits_for_the_tunnel_is_counted_and_not_copied() {
        let budget = BodyBudget::new(1024 * 1024, EdgeMetrics::new(&mut Registry::default()));
        let file = part("name=\"file\"", &"z".repeat(600 * 1024));
        let begun = format!("{file}{}--x\r\n", part("name=\"model\"", "dev/m"));
        let pieces = [begun.as_str(), "a: b\r\n\r\nfile\r\n--x--"];
        let body = || {
            Script::of(
                pieces
                    .map(|piece| Bytes::copy_from_slice(piece.as_bytes()))
                    .into(),
            )
        };
        let terms = (Announced::default(), None);
        let read = || Form::read(BOUNDARY, terms, body(), &budget, Arc::default());
        let form = read().await.unwrap();
        let at = form.held.bytes.as_ptr();
        let (mut up, _) = form.with_model("m");
        let first = up.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(first.as_ptr() == at && first.len() > 600 * 1024);
        let refused = read().await.unwrap_err();
        assert_eq!(
            refused.code(),
            CallerCode::Overloaded,
            "the first piece may still wait"
        );
        assert_eq!(up.frame().await.unwrap().unwrap().into_data().unwrap(), "m");
        up.frame().await.unwrap().unwrap();
        assert!(read().await.is_ok(), "the rest was asked for");
    }

    #[tokio::test]
    async fn a_second_model_never_passes() {
        let model = part("name=\"model\"", "dev/m");
        let file = part("name=\"file\"", &"z".repeat(100));
        let second = part("name=\"model\"", "forbidden");
        let form = format!("{model}{file}{second}--x--");
        for size in [1, 10, 60, 170] {
            let count = Arc::default();
            let form = read(cut(&form, size), &count).await;
            let (mut up, _) = form.unwrap().with_model("m");
            let mut passed = Vec::new();
            let problem = loop {
                match up.frame().await.unwrap() {
                    Ok(frame) => passed.extend(frame.into_data().unwrap()),
                    Err(problem) => break problem,
                }
            };
            assert_eq!(problem, FormError::Duplicate.into());
            let passed = String::from_utf8(passed).unwrap();
            assert!(passed.ends_with("zzz"), "{size}: {passed}");
        }
        let at_once = read(cut(&form, 1000), &Arc::default()).await.unwrap_err();
        assert_eq!(at_once, FormError::Duplicate.into());
    }

    #[tokio::test]
    async fn what_has_no_model_or_no_end_is_refused() {
        let model = part("name=\"model\"", "dev/m");
        let none = part("name=\"file\"", "x") + "--x--";
        for (form, error) in [
            (none.as_str(), FormError::Missing),
            ("", FormError::Incomplete),
            (&model, FormError::Incomplete),
        ] {
            let refused = renamed(form, 9, "m").await.unwrap_err();
            assert_eq!(refused, error.into(), "{form}");
        }
        let cut_off = format!("{model}{}", part("name=\"file\"", "x"));
        let refused = renamed(&cut_off, model.len() + 4, "m").await.unwrap_err();
        assert_eq!(refused, FormError::Incomplete.into());
    }

    #[tokio::test]
    async fn a_model_behind_too_much_is_told_where_to_stand() {
        let piece = Bytes::from(vec![b'z'; 1024 * 1024]);
        let mut pieces = vec![Bytes::from(
            part("name=\"file\"", "").trim_end().to_owned() + "\r\n\r\n",
        )];
        pieces.extend(vec![piece; MAX_HELD_BODY / (1024 * 1024)]);
        pieces.push(Bytes::from(
            "\r\n".to_owned() + &part("name=\"model\"", "m") + "--x--",
        ));
        let refused = read(Script::of(pieces), &Arc::default()).await.unwrap_err();
        assert_eq!(refused.code(), CallerCode::BodyTooLarge);
        assert!(refused.message().contains("before the files"), "{refused}");
    }

    proptest! {
        #[test]
        fn names_are_replaced_and_nothing_else(
            old in "[a-z/ ]{1,20}", new in "[a-z/-]{1,20}",
            before in "[ -~\r\n]{0,30}", after in "[ -~\r\n]{0,30}", size in 1usize..64,
        ) {
            let form = |name: &str| format!(
                "{}{}{}--x--",
                part("name=a", &before), part("name=\"model\"", name), part("name=b", &after),
            );
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            if let Ok(out) = runtime.block_on(renamed(&form(&old), size, &new)) {
                prop_assert_eq!(out, form(&new));
            }
        }
    }
}
