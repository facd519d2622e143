// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Accesses that exit to the VMM: who answers them, which ones a trapped region
//! accepts, and which device accesses carry one out.

pub(crate) mod parts;
pub(crate) mod plan;
pub(crate) mod responder;
pub(crate) mod rules;
