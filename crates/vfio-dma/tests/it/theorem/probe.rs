// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A listener that can refuse or panic at each stage.

use std::sync::Arc;

use kvm_slots::convert::{Conversion, ConversionListener, ConversionListenerError, PageRange};
use memory_model::{Listener, ListenerError, PageSet, SpaceId, Update};

use super::records::Records;
use super::tape::{Can, Tape};

#[derive(Debug)]
pub(crate) struct Probe {
    pub(crate) tape: Arc<Tape>,
    pub(crate) records: Arc<Records>,
}

impl Probe {
    fn ask(&self, stage: &'static str) -> Result<(), &'static str> {
        self.records.check(stage);
        self.tape
            .call((stage, Can::FailOrPanic), || Err("refused"), || Ok(()))
    }

    fn notice(&self, stage: &'static str) {
        self.records.check(stage);
        self.tape.notice(stage);
    }
}

impl Listener<()> for Probe {
    fn name(&self) -> &str {
        "probe"
    }

    fn prepare(&self, _: &Update<'_, ()>) -> Result<(), ListenerError> {
        Ok(self.ask("prepare a transaction")?)
    }

    fn apply(&self, _: &Update<'_, ()>) -> Result<(), ListenerError> {
        Ok(self.ask("apply a transaction")?)
    }

    fn commit(&self, _: &Update<'_, ()>) {
        self.notice("commit a transaction");
    }

    fn abort(&self, _: &Update<'_, ()>) -> Result<(), ListenerError> {
        Ok(self.ask("abort a transaction")?)
    }

    fn revoked(&self, _: SpaceId, _: &PageSet) {
        self.notice("a revocation");
    }
}

impl ConversionListener for Probe {
    fn name(&self) -> &str {
        "probe"
    }

    fn prepare(&self, _: &Conversion<'_>) -> Result<(), ConversionListenerError> {
        Ok(self.ask("prepare a conversion")?)
    }

    fn commit(&self, _: &Conversion<'_>) {
        self.notice("commit a conversion");
    }

    fn abort(&self, _: &Conversion<'_>) -> Result<(), ConversionListenerError> {
        Ok(self.ask("abort a conversion")?)
    }

    fn unpin(&self, _: PageRange) -> bool {
        self.notice("unpin");
        false
    }

    fn revoked(&self, _: PageRange) {
        self.notice("a revocation");
    }
}
