//! The control stream, and the driver that runs a control machine over it: the same for both ends.
//!
//! One task drives one connection. It wakes for a frame, a command, a timer, or the first call of
//! an idle connection, and never for a call of a busy one.

mod reader;
mod writer;

use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::time::Duration;

use culvert_wire::limits::PING_BUSY;
use culvert_wire::{Acceptor, AcceptorEvent, Code, ControlFrame, Dialer, End, FrameError, Machine};
use reader::ControlReader;
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use writer::ControlWriter;

use crate::connection::Connection;
use crate::error::ConnectionEnd;
use crate::frames::CONTROL_PRIORITY;
use crate::limits::{CONTROL_FULL_LOOK, CONTROL_LINGER};
use crate::stream::{RecvHalf, SendHalf};

/// The control stream of a connection.
#[derive(Debug)]
pub struct ControlStream {
    connection: Connection,
    writer: ControlWriter,
    reader: ControlReader,
    /// No call is opened any more: the peer that finishes its stream has said its goodbye before.
    goodbye: bool,
}

/// Why a control stream is driven no more. The connection is closed by then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DriveEnd {
    /// The machine is over.
    Machine(End),
    /// The connection is gone.
    Connection(ConnectionEnd),
    /// The peer sent what is no frame, or ended the stream.
    Stream(FrameError),
    /// The peer has not read the stream for [`CONTROL_STALL`](crate::limits::CONTROL_STALL), while
    /// something waited for it.
    Stalled,
    /// Whoever takes the events is gone.
    Abandoned,
}

/// A machine whose events may be about the connection that carries it.
pub trait Driven: Machine {
    /// Whether no call may be opened on the connection from this event on. It is true before the
    /// frames that follow the event are written.
    fn ends_calls(event: &Self::Event) -> bool;
}

impl Driven for Dialer {
    fn ends_calls(_event: &Self::Event) -> bool {
        false
    }
}

impl Driven for Acceptor {
    fn ends_calls(event: &Self::Event) -> bool {
        matches!(
            event,
            AcceptorEvent::Draining { .. } | AcceptorEvent::CallsEnd
        )
    }
}

impl ControlStream {
    pub(crate) fn new(connection: Connection, (mut send, recv): (SendHalf, RecvHalf)) -> Self {
        send.set_priority(CONTROL_PRIORITY);
        Self {
            connection,
            writer: ControlWriter::new(send),
            reader: ControlReader::new(recv),
            goodbye: false,
        }
    }

    /// Runs a machine until it is over, and closes the connection with its code. Events that are
    /// not taken hold back what is read: a side that stalls is a side that is dead.
    pub async fn drive<M: Driven>(
        mut self,
        mut machine: M,
        commands: mpsc::Receiver<M::Command>,
        events: mpsc::Sender<M::Event>,
    ) -> DriveEnd {
        let mut outlet = Outlet {
            events,
            waiting: VecDeque::new(),
        };
        let mut inlet = Some(commands);
        let mut timer = pin!(sleep_until(Instant::now()));
        let mut rises = Rises::default();
        let end = loop {
            if let Some(end) = self.settle(&mut machine, &mut outlet) {
                break end;
            }
            set_timer(timer.as_mut(), self.due(machine.poll_timeout()));
            let watches = rises.matter(machine.poll_timeout());
            let happening = tokio::select! {
                biased;
                failed = self.writer.flushed(), if self.writer.is_waiting() => failed,
                taken = outlet.take_one(), if outlet.is_waiting() => taken,
                frame = self.reader.frame(), if !outlet.is_waiting() => frame,
                command = next_command(&mut inlet), if !outlet.is_waiting() => command,
                () = timer.as_mut() => Happening::Nothing,
                seen = self.connection.rise_of_calls(rises.seen), if watches => rises.see(seen),
            };
            let happening = if let Happening::Finished = happening {
                self.farewell().await
            } else {
                happening
            };
            if let Some(end) = self.handle(&mut machine, happening) {
                break end;
            }
        };
        self.close(&end).await;
        // The owner gets what was said before the end, if it takes it.
        let rest = async {
            while outlet.is_waiting()
                && let Happening::<()>::Nothing = outlet.take_one().await
            {}
        };
        drop(timeout(CONTROL_LINGER, rest).await);
        end
    }

    /// When to look at the machine and at the writer, should nothing happen before.
    fn due(&self, machine: Option<std::time::Instant>) -> Option<std::time::Instant> {
        let stall = self.writer.stall_due();
        // Frames that are due cannot be written now, and would be due again at once.
        let machine = match machine {
            Some(due) if self.writer.is_full() => Some(due.max(now() + CONTROL_FULL_LOOK)),
            due => due,
        };
        match (machine, stall) {
            (Some(machine), Some(stall)) => Some(machine.min(stall)),
            (machine, stall) => machine.or(stall),
        }
    }

    /// A peer that finishes the stream has said its last word, and closes the connection once that
    /// has arrived. The close says why; where it is lost, an agent that had drained is drained.
    async fn farewell<C>(&self) -> Happening<C> {
        match timeout(CONTROL_LINGER, self.connection.closed()).await {
            Ok(_end) => Happening::Lost,
            Err(_elapsed) if self.goodbye => Happening::Gone,
            Err(_elapsed) => Happening::Broken(FrameError::Cut),
        }
    }

    /// Tells the machine what has happened.
    fn handle<M: Driven>(
        &self,
        machine: &mut M,
        happening: Happening<M::Command>,
    ) -> Option<DriveEnd> {
        let now = now();
        machine.observe(now, self.connection.observation());
        match happening {
            Happening::Nothing | Happening::Finished => {}
            Happening::Frame(frame) => {
                // The machine has ended with it, and says so when it is asked.
                if let Err(violation) = machine.handle_frame(now, frame) {
                    tracing::debug!(%violation, "the peer broke the protocol");
                }
            }
            Happening::Command(command) => machine.handle_command(now, command),
            Happening::Lost => {
                let end = self.connection.end().unwrap_or(ConnectionEnd::TimedOut);
                return Some(DriveEnd::Connection(end));
            }
            Happening::Broken(error) => return Some(DriveEnd::Stream(error)),
            Happening::Gone => {
                let clean = self.connection.calls() == 0;
                return Some(DriveEnd::Machine(End::Drained { clean }));
            }
            Happening::Abandoned => return Some(DriveEnd::Abandoned),
        }
        machine.handle_timeout(now);
        None
    }

    /// Takes from the machine what it has to say: events first, so that what a frame promises is
    /// true when it is written.
    fn settle<M: Driven>(&mut self, machine: &mut M, outlet: &mut Outlet<M>) -> Option<DriveEnd> {
        while let Some(event) = machine.poll_event() {
            if M::ends_calls(&event) {
                self.connection.end_calls();
                self.goodbye = true;
            }
            outlet.waiting.push_back(event);
        }
        if self.writer.has_stalled() {
            return Some(DriveEnd::Stalled);
        }
        while !self.writer.is_full()
            && let Some(frame) = machine.poll_frame(now())
        {
            if let Err(error) = self.writer.push(&frame) {
                return Some(DriveEnd::Stream(error));
            }
        }
        machine.end().map(DriveEnd::Machine)
    }

    /// Closes the connection. Where the machine's last frame says why, it has to arrive first:
    /// a close would overtake it; and a call that is opened meanwhile would be cut by it.
    async fn close(&mut self, end: &DriveEnd) {
        self.connection.end_calls();
        if let DriveEnd::Machine(last) = end
            && tells_the_peer(last)
        {
            let delivered = async {
                if let Happening::<()>::Nothing = self.writer.flushed().await {
                    self.writer.send.finish();
                    self.writer.send.stopped().await.ok();
                }
            };
            drop(timeout(CONTROL_LINGER, delivered).await);
        }
        match end {
            DriveEnd::Machine(end) => self.connection.close(end.code(), ""),
            DriveEnd::Stream(error) => {
                self.connection.close(error.code(), &error.to_string());
            }
            DriveEnd::Stalled => {
                self.connection
                    .close(Code::AgentGone, "the control stream is not read");
            }
            DriveEnd::Abandoned => self.connection.close(Code::AgentGone, "abandoned"),
            DriveEnd::Connection(_) => {}
        }
    }
}

/// Whether the machine's last frame says more than the code with which the connection is closed.
fn tells_the_peer(end: &End) -> bool {
    match end {
        End::Rejected(_) | End::Drained { .. } | End::Left { .. } | End::Closed(_) => true,
        End::Violation(_) | End::TransportDead | End::NoGreeting => false,
    }
}

/// What the driver woke up for.
enum Happening<C> {
    /// A timer, or room somewhere.
    Nothing,
    Frame(ControlFrame),
    Command(C),
    Finished,
    /// The peer has left as it had announced.
    Gone,
    Lost,
    Broken(FrameError),
    Abandoned,
}

/// When calls begin on an idle connection, its pings have to come closer together, and that is
/// sooner than what the machine waits for.
#[derive(Default)]
struct Rises {
    seen: u64,
    at: Option<Instant>,
}

impl Rises {
    /// Whether to wake up for the next. Not often: while the machine is busy anyway, and where
    /// calls come one by one, it is told soon enough.
    fn matter(&self, due: Option<std::time::Instant>) -> bool {
        due.is_none_or(|due| due > now() + PING_BUSY)
            && self.at.is_none_or(|at| at.elapsed() > PING_BUSY)
    }

    fn see<C>(&mut self, seen: u64) -> Happening<C> {
        *self = Self {
            seen,
            at: Some(Instant::now()),
        };
        Happening::Nothing
    }
}

/// Events on their way to the owner.
struct Outlet<M: Machine> {
    events: mpsc::Sender<M::Event>,
    waiting: VecDeque<M::Event>,
}

impl<M: Machine> Outlet<M> {
    fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Hands over as many events as the owner has room for, at least one.
    async fn take_one<C>(&mut self) -> Happening<C> {
        let Ok(mut permit) = self.events.reserve().await else {
            return Happening::Abandoned;
        };
        while let Some(event) = self.waiting.pop_front() {
            permit.send(event);
            match self.events.try_reserve() {
                Ok(next) => permit = next,
                Err(_full_or_closed) => break,
            }
        }
        Happening::Nothing
    }
}

/// The owner's next command; an owner that has gone gives none.
async fn next_command<C>(inlet: &mut Option<mpsc::Receiver<C>>) -> Happening<C> {
    if let Some(commands) = inlet {
        if let Some(command) = commands.recv().await {
            return Happening::Command(command);
        }
        *inlet = None;
    }
    std::future::pending().await
}

fn set_timer(timer: Pin<&mut Sleep>, due: Option<std::time::Instant>) {
    let due = due.map_or_else(|| Instant::now() + UNTIMED, Instant::from_std);
    if timer.deadline() != due {
        timer.reset(due);
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// How long a machine without a timer is left alone; it is asked again then.
const UNTIMED: Duration = Duration::from_secs(60);
