// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The integration tests of `memory-model`, in one program.
//!
//! `cargo test -p memory-model --test it listeners::` runs one folder. What
//! readers see in chosen interleavings is tested by a package of its own, in
//! `tests/swap`.

mod common;

/// Regions, and how a flat view shows them.
mod tree {
    mod aliases;
    mod ids;
    mod rendering;
}

/// Changes that take effect together or not at all.
mod transactions {
    mod all_or_nothing;
    mod nested;
    mod other_memory;
    mod panics;
}

/// What listeners are notified of, and when.
mod listeners {
    mod apply_stage;
    mod dirty_logging;
    mod follower;
    mod order;
    mod removal;
}

/// Ioeventfds and coalesced ranges.
mod attachments {
    mod in_view;
    mod rules;
}

/// Which accesses of a device carry out the guest's.
mod access_rules;

/// Who answers an access that came to the VMM.
mod access_parts;

/// What is behind a region.
mod backing;

/// Private, shared and accepted pages.
mod pages {
    mod acceptance;
    mod page_state;
    mod state_limit;
}

/// Readers concurrent with a writer.
mod readers {
    mod kept_views;
    mod threads;
}

/// What devices access through `vm-memory`.
mod guest_memory {
    mod add;
    mod listener;
    mod plain;
    mod reach;
    mod virtio;
}

/// A model as data, and back.
mod state {
    mod refused;
    mod round_trip;
}

/// Random transactions beside a simpler model.
mod oracle;
