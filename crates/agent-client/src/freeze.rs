//! Holding a guest's disks still while they are copied.

use crate::client::Client;
use crate::connection::Connection;
use crate::error::ClientError;
use donjon_agent_protocol::Request;
use std::time::Duration;

/// A guest whose file systems are frozen. Dropping it thaws them.
pub struct Frozen(Connection);

impl Client {
    /// Freezes the guest's file systems, for at most `time` (120 s): what is on its disks is then complete.
    pub fn freeze(&self, time: Duration) -> Result<Frozen, ClientError> {
        let mut connection = self.connect()?;
        connection.ask(&Request::Freeze(time))?;
        Ok(Frozen(connection))
    }
}

impl Frozen {
    /// Thaws them. An error means that they may not have been frozen all the time: do not use what was saved.
    pub fn thaw(mut self) -> Result<(), ClientError> {
        self.0.limit(Some(crate::client::ANSWER));
        self.0.ask(&Request::Thaw)
    }
}
