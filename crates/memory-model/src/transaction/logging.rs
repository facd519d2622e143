// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The steps of a transaction that set for which clients writes are logged.

use crate::error::TreeError;
use crate::ids::RegionId;
use crate::logging::DirtyClients;
use crate::transaction::Transaction;
use crate::transaction::undo::Undo;

impl<H> Transaction<'_, H> {
    /// Sets the clients for which writes to a region's memory are logged, wherever
    /// the region shows. Listeners get the region's runs as changed.
    ///
    /// # Errors
    /// [`TreeError::NoSuchRegion`]; [`TreeError::NotLoggable`].
    pub fn set_dirty_logging(
        &mut self,
        id: RegionId,
        clients: DirtyClients,
    ) -> Result<(), TreeError> {
        let before = self.model.tree.set_logging(id, clients)?;
        if before != clients {
            self.model.undo.push(Undo::Logging(id, before));
            self.windows.add_region(&self.model.tree, id);
        }
        Ok(())
    }

    /// Sets the clients for which writes to all memory are logged, in addition to
    /// the clients of single regions.
    ///
    /// Every listener of every space is notified. Memory that cannot be logged is
    /// no error: [`FlatView::unloggable`](crate::FlatView::unloggable) lists it.
    ///
    /// The commit renders every space again, unless the clients are the same as
    /// before the transaction. Then it costs nothing.
    pub fn set_global_dirty_logging(&mut self, clients: DirtyClients) {
        let before = self.model.tree.set_global_logging(clients);
        if before != clients {
            self.model.undo.push(Undo::GlobalLogging(before));
        }
    }
}
