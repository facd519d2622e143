// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the tests of DMA mappings share. It goes where they go.

// Each of them uses a part.
#![allow(dead_code)]

#[path = "common/dma.rs"]
pub(crate) mod dma;
