//! The body of an answer on its way to the caller.
//!
//! Bytes pass as they come. At an irregular end the caller is told so: by an error event where the
//! answer is an event stream between two lines, else by an aborted connection or stream. A cut answer
//! is never taken for a whole one.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, header};
use http_body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;

pub use crate::cut::{Cut, CutFlag};
use crate::{
    dialect::Dialect,
    error::Problem,
    hygiene,
    model::{ask_usage::UsageFilter, stored::Remember, usage::UsageTap},
    record::{Guard, Note},
    silence::Silence,
    sse::{self, Position},
};

/// The comment; parsers of event streams skip it.
const COMMENT: &[u8] = b": keep-alive\n\n";

/// How one answer is to be watched.
#[derive(Debug)]
pub struct Watch {
    /// The dialect of an error event.
    pub dialect: Dialect,
    /// The id of the JSON-RPC request that is answered, in JSON.
    pub call: Option<String>,
    /// Silence that is filled with comments, should the answer be an event stream.
    pub keep_alive: Option<Duration>,
    /// Whether the caller does not expect the chunk that counts the tokens of a stream.
    pub hide_usage: bool,
    /// Whether token counts are read aside.
    pub count_tokens: bool,
    /// What becomes of the id of the answer.
    pub remember: Option<Remember>,
    /// The connection's flag.
    pub cut: CutFlag,
}

/// The body of an answer, and the record that lives as long as it.
#[derive(Debug)]
pub struct AnswerBody<B> {
    state: State<B>,
    guard: Guard,
    watch: Watch,
    events: Option<Position>,
    tap: Option<UsageTap>,
    filter: Option<UsageFilter>,
    silence: Option<Silence>,
    /// Bytes that the head announced and that have not come yet.
    left: Option<u64>,
    /// What a late answer will say for the record.
    noted: Option<oneshot::Receiver<Note>>,
}

#[derive(Debug)]
enum State<B> {
    /// Bytes may come.
    Open(B),
    /// The last announced byte is held back until the end behind it has been seen: HTTP servers ask
    /// for nothing after it, and an answer is whole only with its end.
    Last(B, Bytes),
    /// An error of ours that has not been handed over.
    Own(Bytes),
    /// Nothing more comes.
    Done,
}

impl<B> AnswerBody<B> {
    /// Puts into the record what was learned on the way.
    fn settle(&mut self) {
        if let Some(Ok(note)) = self.noted.take().map(|mut noted| noted.try_recv()) {
            // What was routed to may be a pool: only now it is known who answered.
            let service = note.service.as_deref().and_then(|name| name.parse().ok());
            if let Some(service) = service {
                let remember = self.watch.remember.take();
                self.watch.remember = remember.map(|all| all.from_service(service));
            }
            self.guard.fields().note(note);
        }
        if let Some(tap) = self.tap.take() {
            self.guard.tokens(tap.usage());
            if let Some(remember) = self.watch.remember.take() {
                remember.note(tap.beginning());
            }
        }
    }
}

impl<B> Drop for AnswerBody<B> {
    fn drop(&mut self) {
        self.settle();
    }
}

impl<B: Body> AnswerBody<B> {
    /// An answer whose head, with these headers, is about to be sent.
    pub fn new(body: B, headers: &HeaderMap, guard: Guard, watch: Watch) -> Self {
        let events = sse::is_event_stream(headers).then(Position::default);
        let left = headers
            .get(header::CONTENT_LENGTH)
            .and_then(|v| v.to_str().ok()?.parse().ok());
        let mut answer = Self {
            state: State::Open(body),
            filter: (watch.hide_usage && events.is_some()).then(UsageFilter::default),
            silence: watch
                .keep_alive
                .filter(|_| events.is_some())
                .map(Silence::new),
            tap: watch.count_tokens.then(UsageTap::default),
            guard,
            watch,
            events,
            left,
            noted: None,
        };
        if matches!(&answer.state, State::Open(body) if body.is_end_stream()) {
            answer.finish();
        }
        answer
    }

    /// A stream that begins, with a comment, before its answer is there. `noted` is what the answer
    /// will say for the record.
    pub fn early(body: B, noted: oneshot::Receiver<Note>, guard: Guard, watch: Watch) -> Self {
        Self {
            state: State::Open(body),
            filter: watch.hide_usage.then(UsageFilter::default),
            silence: watch.keep_alive.map(Silence::lasted),
            tap: watch.count_tokens.then(UsageTap::default),
            guard,
            watch,
            events: Some(Position::default()),
            left: None,
            noted: Some(noted),
        }
    }

    /// An error of ours; `bytes` are all of it.
    pub fn own(bytes: Bytes, guard: Guard) -> Self {
        let watch = Watch {
            dialect: Dialect::OpenAi,
            call: None,
            keep_alive: None,
            hide_usage: false,
            count_tokens: false,
            remember: None,
            cut: CutFlag::default(),
        };
        let mut answer = Self {
            state: State::Own(bytes),
            guard,
            watch,
            events: None,
            tap: None,
            filter: None,
            silence: None,
            left: None,
            noted: None,
        };
        if matches!(&answer.state, State::Own(bytes) if bytes.is_empty()) {
            answer.finish();
        }
        answer
    }

    fn finish(&mut self) {
        self.state = State::Done;
        self.settle();
        self.guard.whole();
    }

    /// Ends the answer with `problem`, in the way that the caller can tell from a whole one.
    fn fail(&mut self, cut: Cut) -> Poll<Option<Result<Frame<Bytes>, Problem>>> {
        self.state = State::Done;
        self.settle();
        // What comes late says itself whether it may have been executed.
        self.guard.fields().maybe_executed |= matches!(cut, Cut::Code(_));
        let problem = cut.into_problem();
        self.guard.cut(&problem);
        let Some(event) = self.error_event(&problem) else {
            self.watch.cut.set();
            return Poll::Ready(Some(Err(problem)));
        };
        self.guard.sent(event.len());
        Poll::Ready(Some(Ok(Frame::data(event))))
    }

    fn error_event(&self, problem: &Problem) -> Option<Bytes> {
        let events = self.events.as_ref()?;
        let rpc = self.watch.dialect == Dialect::JsonRpc;
        // A client of MCP resumes a stream whose events have ids, and waits on one of its requests
        // for ever where nothing answers it.
        if rpc && (events.is_resumable() || self.watch.call.is_none()) {
            return None;
        }
        let before = events.before_event()?;
        let call = self.watch.call.as_deref();
        let event = self
            .watch
            .dialect
            .event(problem, self.guard.request_id(), call);
        Some([before.as_bytes(), &event].concat().into())
    }

    fn passing(&mut self, data: &Bytes) {
        self.guard.sent(data.len());
        if let Some(events) = &mut self.events {
            events.watch(data);
        }
        if let Some(silence) = &mut self.silence {
            silence.end();
        }
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(data.len() as u64);
        }
    }

    /// A comment, where silence has lasted and nothing is half written.
    fn comment(&mut self, cx: &mut Context<'_>) -> Option<Bytes> {
        let lasted = self.silence.as_mut()?.has_lasted(cx);
        let between = self.events.as_ref().and_then(Position::before_event) == Some("");
        (lasted && between).then(|| Bytes::from_static(COMMENT))
    }

    /// What the caller is to see of these bytes; `None` where that is nothing yet.
    fn filtered(&mut self, data: Bytes) -> Option<Bytes> {
        if let Some(tap) = &mut self.tap {
            tap.watch(&data);
        }
        match &mut self.filter {
            Some(filter) => Some(filter.pass(data)).filter(|data| !data.is_empty()),
            None => Some(data),
        }
    }

    /// What was held back for the filter, at the end.
    fn rest(&mut self) -> Option<Bytes> {
        let rest = self.filter.as_mut()?.rest();
        (!rest.is_empty()).then_some(rest)
    }
}

impl<B> AnswerBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Cut>,
{
    fn poll_open(
        &mut self,
        cx: &mut Context<'_>,
        mut body: B,
    ) -> Poll<Option<Result<Frame<Bytes>, Problem>>> {
        loop {
            let frame = match Pin::new(&mut body).poll_frame(cx) {
                Poll::Pending => {
                    self.state = State::Open(body);
                    return self.comment(cx).map_or(Poll::Pending, |comment| {
                        Poll::Ready(Some(Ok(Frame::data(comment))))
                    });
                }
                Poll::Ready(Some(Err(error))) => return self.fail(error.into()),
                Poll::Ready(None) => return self.poll_end(None),
                Poll::Ready(Some(Ok(frame))) => frame,
            };
            let data = match frame.into_data() {
                // They are the end: HTTP servers ask for nothing after them.
                Err(trailers) => return self.poll_end(Some(trailers)),
                Ok(data) => data,
            };
            if self.left == Some(data.len() as u64) && !body.is_end_stream() {
                return self.poll_last(cx, body, data);
            }
            let seen = self.filtered(data);
            if body.is_end_stream() {
                let all = [seen, self.rest()].into_iter().flatten();
                let all: Vec<Bytes> = all.collect();
                return match all.as_slice() {
                    [] => self.poll_end(None),
                    [data] => self.poll_data(State::Done, data.clone()),
                    more => self.poll_data(State::Done, more.concat().into()),
                };
            }
            if let Some(data) = seen {
                return self.poll_data(State::Open(body), data);
            }
        }
    }

    fn poll_data(
        &mut self,
        next: State<B>,
        data: Bytes,
    ) -> Poll<Option<Result<Frame<Bytes>, Problem>>> {
        self.passing(&data);
        self.state = next;
        if matches!(self.state, State::Done) {
            self.finish();
        }
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    /// The end, with what was held back for the filter. A stream that ends in the middle of an event has
    /// no place for trailers behind it.
    fn poll_end(
        &mut self,
        trailers: Option<Frame<Bytes>>,
    ) -> Poll<Option<Result<Frame<Bytes>, Problem>>> {
        if let Some(rest) = self.rest() {
            return self.poll_data(State::Done, rest);
        }
        self.finish();
        Poll::Ready(trailers.map(|trailers| Ok(hygiene::cleaned(trailers))))
    }

    fn poll_last(
        &mut self,
        cx: &mut Context<'_>,
        mut body: B,
        last: Bytes,
    ) -> Poll<Option<Result<Frame<Bytes>, Problem>>> {
        loop {
            match Pin::new(&mut body).poll_frame(cx) {
                Poll::Pending => {
                    self.state = State::Last(body, last);
                    return Poll::Pending;
                }
                Poll::Ready(Some(Err(error))) => return self.fail(error.into()),
                // Trailers: a message with a declared length has no place for them.
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(None) => {
                    if let Some(tap) = &mut self.tap {
                        tap.watch(&last);
                    }
                    return self.poll_data(State::Done, last);
                }
            }
        }
    }
}

impl<B> Body for AnswerBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Cut>,
{
    type Data = Bytes;
    type Error = Problem;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Problem>>> {
        let this = self.get_mut();
        match std::mem::replace(&mut this.state, State::Done) {
            State::Done => Poll::Ready(None),
            State::Own(bytes) => {
                this.guard.sent(bytes.len());
                this.finish();
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            State::Open(body) => this.poll_open(cx, body),
            State::Last(body, last) => this.poll_last(cx, body, last),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.state, State::Done)
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.state, self.left) {
            (State::Own(bytes), _) => SizeHint::with_exact(bytes.len() as u64),
            (State::Done, _) => SizeHint::with_exact(0),
            (State::Open(_) | State::Last(..), Some(left)) => SizeHint::with_exact(left),
            (State::Open(_) | State::Last(..), None) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, sync::Arc};

    use culvert_certs::TenantName;
    use culvert_wire::Code;
    use http::HeaderValue;
    use http_body_util::BodyExt;
    use prometheus_client::registry::Registry;
    use tokio::{sync::mpsc, time::Sleep};

    use super::*;
    use crate::{
        error::CallerCode,
        metrics::EdgeMetrics,
        model::stored::Stored,
        record::{Record, Recorder},
        route::endpoint::ServicePath,
    };

    enum Step {
        Data(&'static str),
        Wait(Duration),
        Hang,
        Fail(Code),
        Trailers(&'static [(&'static str, &'static str)]),
    }

    struct Script {
        steps: VecDeque<Step>,
        wait: Option<Pin<Box<Sleep>>>,
    }

    impl From<Code> for Cut {
        fn from(code: Code) -> Self {
            Self::Code(code)
        }
    }

    impl Body for Script {
        type Data = Bytes;
        type Error = Code;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Code>>> {
            if let Some(wait) = &mut self.wait {
                std::task::ready!(wait.as_mut().poll(cx));
                self.wait = None;
            }
            match self.steps.pop_front() {
                None => Poll::Ready(None),
                Some(Step::Data(text)) => {
                    Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(text.as_bytes())))))
                }
                Some(Step::Fail(code)) => Poll::Ready(Some(Err(code))),
                Some(Step::Trailers(pairs)) => {
                    let pairs = pairs.iter();
                    let all = pairs.map(|(n, v)| (n.parse().unwrap(), HeaderValue::from_static(v)));
                    Poll::Ready(Some(Ok(Frame::trailers(all.collect()))))
                }
                Some(Step::Hang) => {
                    self.steps.push_front(Step::Hang);
                    Poll::Pending
                }
                Some(Step::Wait(time)) => {
                    self.wait = Some(Box::pin(tokio::time::sleep(time)));
                    self.poll_frame(cx)
                }
            }
        }
    }

    struct Case {
        body: AnswerBody<Script>,
        records: mpsc::Receiver<Record>,
        recorder: Recorder,
        cut: CutFlag,
    }

    fn case(dialect: Dialect, headers: &[(&'static str, &'static str)], steps: Vec<Step>) -> Case {
        with(dialect, headers, steps, |_| ())
    }

    fn with(
        dialect: Dialect,
        headers: &[(&'static str, &'static str)],
        steps: Vec<Step>,
        set: fn(&mut Watch),
    ) -> Case {
        let (queue, records) = mpsc::channel(4);
        let recorder = Recorder::new(EdgeMetrics::new(&mut Registry::default()), queue);
        let guard = recorder.begin(Record {
            request_id: "r1".into(),
            ..Record::default()
        });
        let headers = headers
            .iter()
            .map(|(n, v)| ((*n).parse().unwrap(), HeaderValue::from_static(v)))
            .collect();
        let cut = CutFlag::default();
        let mut watch = Watch {
            dialect,
            call: None,
            keep_alive: None,
            hide_usage: false,
            count_tokens: false,
            remember: None,
            cut: cut.clone(),
        };
        set(&mut watch);
        let body = AnswerBody::new(
            Script {
                steps: steps.into(),
                wait: None,
            },
            &headers,
            guard,
            watch,
        );
        Case {
            body,
            records,
            recorder,
            cut,
        }
    }

    const KEEP_ALIVE: Duration = Duration::from_secs(7);
    const SSE: (&str, &str) = ("content-type", "text/event-stream");

    impl Case {
        /// What the caller gets, and how it ends.
        async fn read(&mut self) -> (String, Result<(), CallerCode>) {
            let mut text = String::new();
            while let Some(frame) = self.body.frame().await {
                match frame {
                    Ok(frame) => {
                        text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap())
                    }
                    Err(problem) => return (text, Err(problem.code())),
                }
            }
            (text, Ok(()))
        }

        fn record(mut self) -> Record {
            drop(self.body);
            self.records.try_recv().unwrap()
        }
    }

    #[tokio::test]
    async fn a_whole_answer_passes_unchanged() {
        let mut case = with(
            Dialect::OpenAi,
            &[SSE],
            vec![
                Step::Data("data: 1\n\n"),
                Step::Data("data: {\"usage\":{\"prompt_tokens\":2,\"completion_tokens\":3}}\n\n"),
            ],
            |watch| watch.count_tokens = true,
        );
        let (text, end) = case.read().await;
        assert!(text.starts_with("data: 1\n\ndata: {") && end.is_ok());
        let record = case.record();
        assert_eq!(
            (record.outcome, record.bytes_out),
            ("ok", text.len() as u64)
        );
        assert_eq!((record.tokens_in, record.tokens_out), (Some(2), Some(3)));
    }

    #[tokio::test]
    async fn tokens_that_were_not_asked_for_are_recorded_and_not_shown() {
        const EXTRA: &str =
            "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":2,\"completion_tokens\":3}}\n\n";
        let hide: fn(&mut Watch) = |watch| (watch.count_tokens, watch.hide_usage) = (true, true);
        let (half, rest) = EXTRA.split_at(20);
        for (steps, wanted) in [
            (
                vec!["data: 1\n\n", EXTRA, "data: [DONE]\n\n"],
                "data: 1\n\ndata: [DONE]\n\n",
            ),
            (vec!["data: 1\n\n", half, rest], "data: 1\n\n"),
            (vec!["data: 1\n\n", EXTRA, "data: 2"], "data: 1\n\ndata: 2"),
            (vec![EXTRA], ""),
        ] {
            let steps = steps.into_iter().map(Step::Data).collect();
            let mut case = with(Dialect::OpenAi, &[SSE], steps, hide);
            assert_eq!(case.read().await, (wanted.to_owned(), Ok(())));
            let record = case.record();
            assert_eq!((record.tokens_in, record.tokens_out), (Some(2), Some(3)));
            assert_eq!(
                (record.outcome, record.bytes_out),
                ("ok", wanted.len() as u64)
            );
        }
        let json = vec![Step::Data(EXTRA)];
        let mut other = with(Dialect::OpenAi, &[], json, hide);
        assert_eq!(other.read().await.0, EXTRA, "no event stream");
        let cut = vec![
            Step::Data("data: 1\n\ndata: {"),
            Step::Fail(Code::AgentGone),
        ];
        let (text, end) = with(Dialect::OpenAi, &[SSE], cut, hide).read().await;
        assert!(
            text.starts_with("data: 1\n\ndata: {\"error\"") && end.is_ok(),
            "{text}"
        );
    }

    #[tokio::test]
    async fn trailers_say_no_more_than_a_head_may() {
        let trailers: &[_] = &[
            ("set-cookie", "a=b"),
            ("access-control-allow-origin", "*"),
            ("x_culvert_zone", "FAKE"),
            ("x-request-id", "FAKE"),
            ("x-sum", "1"),
        ];
        let steps = vec![Step::Data("a"), Step::Trailers(trailers)];
        let mut case = case(Dialect::OpenAi, &[], steps);
        assert!(case.body.frame().await.unwrap().unwrap().is_data());
        let frame = case.body.frame().await.unwrap().unwrap();
        let left = frame.into_trailers().unwrap();
        let names: Vec<_> = left.keys().map(http::HeaderName::as_str).collect();
        assert_eq!(names, ["x-sum"]);
        assert!(case.body.is_end_stream());
        assert_eq!(
            case.record().outcome,
            "ok",
            "nothing is asked for after them"
        );
    }

    #[tokio::test]
    async fn a_cut_stream_ends_with_an_event_and_without_done() {
        let cases = [
            (Dialect::OpenAi, "data: "),
            (Dialect::Anthropic, "event: error\ndata: "),
        ];
        for (dialect, begins) in cases {
            let steps = vec![Step::Data("data: 1\n\n"), Step::Fail(Code::AgentGone)];
            let mut case = case(dialect, &[SSE], steps);
            let (text, end) = case.read().await;
            let event = text.strip_prefix("data: 1\n\n").unwrap();
            assert!(
                event.starts_with(begins)
                    && event.contains("answer_cut")
                    && event.ends_with("\n\n"),
                "{event}"
            );
            assert!(!text.contains("[DONE]") && end.is_ok() && !case.cut.is_set());
            let record = case.record();
            assert_eq!((record.outcome, record.code), ("cut", "answer_cut"));
        }
    }

    #[tokio::test]
    async fn elsewhere_a_cut_answer_is_aborted() {
        let whole_line = vec![Step::Data("data: 1\n"), Step::Fail(Code::BackendReset)];
        let (text, end) = case(Dialect::OpenAi, &[SSE], whole_line).read().await;
        assert!(
            text.starts_with("data: 1\n\ndata: {") && end.is_ok(),
            "{text}"
        );
        let half_line = || vec![Step::Data("data: {\"a"), Step::Fail(Code::BackendReset)];
        for headers in [
            &[SSE][..],
            &[("content-type", "application/json")],
            &[SSE, ("content-encoding", "gzip")],
        ] {
            let mut case = case(Dialect::OpenAi, headers, half_line());
            assert_eq!(
                case.read().await,
                ("data: {\"a".into(), Err(CallerCode::AnswerCut))
            );
            assert!(case.cut.is_set());
            assert_eq!(case.record().outcome, "cut");
        }
    }

    #[tokio::test]
    async fn mcp_requests_are_answered_and_resumable_streams_are_not() {
        let steps = |text| vec![Step::Data(text), Step::Fail(Code::AgentGone)];
        let with_id: fn(&mut Watch) = |watch| watch.call = Some("7".into());
        let (text, end) = with(Dialect::JsonRpc, &[SSE], steps("data: 1\n\n"), with_id)
            .read()
            .await;
        assert!(
            text.contains("event: message\n") && text.contains("\"id\":7") && end.is_ok(),
            "{text}"
        );
        let (_, end) = with(
            Dialect::JsonRpc,
            &[SSE],
            steps("id: 1\ndata: 1\n\n"),
            with_id,
        )
        .read()
        .await;
        assert_eq!(end, Err(CallerCode::AnswerCut));
        let (_, end) = case(Dialect::JsonRpc, &[SSE], steps("data: 1\n\n"))
            .read()
            .await;
        assert_eq!(end, Err(CallerCode::AnswerCut));
    }

    #[tokio::test]
    async fn a_declared_length_is_whole_only_with_its_end() {
        let length = [("content-length", "4")];
        let mut good = case(
            Dialect::OpenAi,
            &length,
            vec![Step::Data("ab"), Step::Data("cd")],
        );
        assert_eq!(good.body.size_hint().exact(), Some(4));
        assert!(good.body.frame().await.unwrap().is_ok());
        assert!(good.body.frame().await.unwrap().is_ok());
        assert!(good.body.is_end_stream(), "known without asking again");
        assert_eq!(good.record().outcome, "ok");
        let cut = vec![Step::Data("abcd"), Step::Fail(Code::AgentGone)];
        let (text, end) = case(Dialect::OpenAi, &length, cut).read().await;
        assert_eq!((text.as_str(), end), ("", Err(CallerCode::AnswerCut)));
    }

    #[tokio::test]
    async fn a_caller_that_leaves_is_recorded() {
        let mut case = case(Dialect::OpenAi, &[SSE], vec![Step::Data("x"), Step::Hang]);
        assert!(case.body.frame().await.unwrap().is_ok());
        assert_eq!(case.record().outcome, "caller_gone");
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_filled_between_events_only() {
        let wait = || Step::Wait(KEEP_ALIVE * 2 + Duration::from_secs(1));
        let keep: fn(&mut Watch) = |watch| watch.keep_alive = Some(KEEP_ALIVE);
        let steps = vec![
            wait(),
            Step::Data("data: 1\n\n"),
            wait(),
            Step::Data("data: 2\n"),
        ];
        let (text, end) = with(Dialect::OpenAi, &[SSE], steps, keep).read().await;
        let comments = ": keep-alive\n\n".repeat(2);
        assert_eq!(text, format!("{comments}data: 1\n\n{comments}data: 2\n"));
        assert!(end.is_ok());
        let steps = vec![Step::Data("data: 1"), wait(), Step::Data("\n\n")];
        assert_eq!(
            with(Dialect::OpenAi, &[SSE], steps, keep).read().await.0,
            "data: 1\n\n"
        );
        let (text, _) = case(
            Dialect::OpenAi,
            &[SSE],
            vec![wait(), Step::Data("data: 1\n\n")],
        )
        .read()
        .await;
        assert_eq!(text, "data: 1\n\n", "not asked for");
    }

    #[tokio::test(start_paused = true)]
    async fn an_early_stream_is_kept_alive_until_its_answer_comes() {
        let stored = Arc::new(Stored::default());
        let tenant: TenantName = "acme".parse().unwrap();
        let mut case = case(Dialect::OpenAi, &[], vec![]);
        let (noter, noted) = oneshot::channel();
        let wait = Step::Wait(KEEP_ALIVE + Duration::from_secs(1));
        let event = "data: {\"response\":{\"id\":\"resp_1\"}}\n\n";
        let steps = vec![wait, Step::Data(event)];
        let recorder = case.recorder.clone();
        let guard = recorder.begin(Record::default());
        let watch = Watch {
            dialect: Dialect::OpenAi,
            call: None,
            keep_alive: Some(KEEP_ALIVE),
            hide_usage: false,
            count_tokens: true,
            remember: Some(Remember {
                stored: Arc::clone(&stored),
                tenant: tenant.clone(),
                service: ServicePath::parse("dev/first").unwrap(),
            }),
            cut: CutFlag::default(),
        };
        let script = Script {
            steps: steps.into(),
            wait: None,
        };
        case.body = AnswerBody::early(script, noted, guard, watch);
        assert!(
            case.records.recv().await.is_some(),
            "of the body that was replaced"
        );
        noter
            .send(Note {
                agent: Some("a".into()),
                service: Some("second".into()),
                ..Note::default()
            })
            .unwrap();
        let (text, end) = case.read().await;
        assert_eq!(text, format!("{}{event}", ": keep-alive\n\n".repeat(2)));
        assert!(end.is_ok());
        assert_eq!(case.record().agent.as_deref(), Some("a"));
        let answered = ServicePath::parse("dev/second");
        assert_eq!(
            stored.find(&tenant, "resp_1"),
            answered,
            "not the first of the pool"
        );
    }
}
