// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The painted model of `memory-model`'s own tests: the same files.

#[path = "../../../crates/memory-model/tests/oracle/attached.rs"]
mod attached;
#[path = "../../../crates/memory-model/tests/oracle/both.rs"]
mod both;
#[path = "../../../crates/memory-model/tests/oracle/check.rs"]
mod check;
#[path = "../../../crates/memory-model/tests/oracle/follower.rs"]
mod follower;
// The strategies are for proptest alone.
#[allow(dead_code)]
#[path = "../../../crates/memory-model/tests/oracle/ops.rs"]
pub(crate) mod ops;
#[path = "../../../crates/memory-model/tests/oracle/painted.rs"]
mod painted;
#[path = "../../../crates/memory-model/tests/oracle/scale.rs"]
mod scale;
#[path = "../../../crates/memory-model/tests/oracle/turns.rs"]
pub(crate) mod turns;
#[path = "../../../crates/memory-model/tests/oracle/twins.rs"]
pub(crate) mod twins;
