// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tests that cross crates and run on any machine.

mod config_space;
mod examples;
mod homes;
