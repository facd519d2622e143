// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Random transactions, compared address by address with a model that is too
//! simple to be wrong in the same way.

mod attached;
mod both;
mod check;
mod follower;
pub mod ops;
mod painted;
mod scale;
pub mod turns;
pub mod twins;
