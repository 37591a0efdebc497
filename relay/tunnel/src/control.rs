//! The control stream, and the driver that runs a control machine over it.

use crate::connection::Connection;
use crate::frames::CONTROL_PRIORITY;
use crate::stream::{RecvHalf, SendHalf};

/// The control stream of a connection.
#[derive(Debug)]
pub struct ControlStream {
    connection: Connection,
    send: SendHalf,
    recv: RecvHalf,
}

impl ControlStream {
    pub(crate) fn new(connection: Connection, (mut send, recv): (SendHalf, RecvHalf)) -> Self {
        send.set_priority(CONTROL_PRIORITY);
        Self {
            connection,
            send,
            recv,
        }
    }
}
