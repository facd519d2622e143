// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Parses the trees of a dump, without interpreting them.

pub(crate) mod dump;
pub(crate) mod line;
pub(crate) mod other_output;
mod parser;
mod paste;

pub(crate) use parser::parse;

/// The largest text that is read, in bytes.
pub(crate) const MAX_BYTES: usize = 8 << 20;
