// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! DMA mappings: planned, applied, and in step with a view and its conversions.

mod apply;
mod convert;
mod listener;
mod plan;
mod public_issues;
mod support;
mod theorem;
