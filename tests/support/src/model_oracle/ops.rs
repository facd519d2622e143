// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Random changes of a model, and random acceptances.

use memory_model::{AddrRange, DirtyClients, PAGE_SIZE, Switches, Trigger};
use proptest::prelude::*;

use super::turns::Turn;

/// The number of addresses at either end of the space that are checked one by
/// one. Elsewhere only the edges of runs are checked.
pub const WINDOW: u64 = 96;

/// The kind of an alias.
pub const AN_ALIAS: u8 = 15;

/// Picks a region: a number, modulo the number of regions.
pub type Pick = u16;

/// A region to add: its kind as a number, and the target of an alias.
#[derive(Clone, Debug)]
pub struct New {
    /// Its kind, as a number.
    pub kind: u8,
    /// Its size.
    pub size: u128,
    /// Its switches.
    pub switches: Switches,
    /// The target of an alias.
    pub target: Pick,
    /// The offset of an alias in its target.
    pub offset: u64,
}

/// One step of a transaction.
#[derive(Clone, Debug)]
pub enum Op {
    /// Adds a region without placing it.
    Add(New),
    /// Adds a region, and places it in another one.
    AddIn(New, Pick, u64, i32),
    /// Adds two aliases of the same target, adjacent or nearly so.
    AddTwo([New; 2], Pick, u64, [u64; 2]),
    /// Adds this many equal regions, each this far after the one before.
    AddRow(New, Pick, u64, u64, u8),
    /// Adds a container with contents.
    AddFull(Full),
    /// Places a region in another one, at an address and with a priority.
    Place(Pick, Pick, u64, i32),
    /// Moves a region within its parent.
    Move(Pick, u64),
    /// Takes a region out of its parent.
    Unplace(Pick),
    /// Switches a region on or off.
    Enable(Pick, bool),
    /// Makes a region read-only, or writable.
    Readonly(Pick, bool),
    /// Switches direct reads on or off.
    DirectReads(Pick, bool),
    /// Removes a region.
    Remove(Pick),
    /// Sets the clients for which writes to a region are logged.
    Log(Pick, DirtyClients),
    /// Sets the clients for which all writes are logged.
    LogAll(DirtyClients),
    /// Attaches something to a region, or detaches it.
    Attach(Pick, AttachOp),
    /// A nested part, and whether it is kept.
    Nested(Vec<Op>, bool),
}

/// A container with its contents, placed itself or through an alias.
#[derive(Clone, Debug)]
pub struct Full {
    /// The container.
    pub container: New,
    /// The contents, with their places.
    pub children: Vec<(New, u64)>,
    /// An alias of it, to be placed instead.
    pub alias: Option<New>,
    /// The parent.
    pub parent: Pick,
    /// The address.
    pub address: u64,
    /// The priority.
    pub priority: i32,
}

/// An attachment to a region, or a detachment.
#[derive(Clone, Copy, Debug)]
pub enum AttachOp {
    /// An ioeventfd: address, trigger and descriptor.
    Event(u64, Trigger, i32),
    /// A range of coalesced writes.
    Coalesced(AddrRange),
    /// Detaches an ioeventfd.
    NoEvent(Pick),
    /// Detaches a coalesced range.
    NoCoalesced(Pick),
}

/// How a transaction ends.
#[derive(Clone, Copy, Debug)]
pub enum End {
    /// It is committed.
    Commit,
    /// It is dropped.
    Drop,
    /// It is committed, and a listener refuses.
    Refuse,
}

/// One step of a script.
#[derive(Clone, Debug)]
pub enum Step {
    /// A transaction.
    Change(Vec<Op>, End),
    /// The guest accepts part of a run of private MMIO: the run, the offset in
    /// it, and the number of bytes.
    AcceptRun(usize, Pick, u64, u64),
    /// The guest accepts any addresses.
    Accept(usize, AddrRange),
    /// The guest returns pages of a space.
    GiveBack(usize, AddrRange),
    /// Pages of a space are revoked.
    Revoke(usize, AddrRange),
    /// A listener or a space joins or leaves.
    Turn(Turn),
}

/// Mostly low, sometimes at the very end of the space.
fn address() -> impl Strategy<Value = u64> {
    prop_oneof![3 => 0..WINDOW, 1 => (0..WINDOW).prop_map(|a| u64::MAX - a)]
}

fn size() -> impl Strategy<Value = u128> {
    prop_oneof![
        8 => 1..u128::from(WINDOW),
        1 => (0..u128::from(WINDOW)).prop_map(|less| (1 << 64) - less),
        1 => Just(1_u128 << 64),
    ]
}

fn switches() -> impl Strategy<Value = Switches> {
    let mostly = prop::bool::weighted;
    let flags = (
        mostly(0.9),
        mostly(0.1),
        mostly(0.1),
        mostly(0.1),
        mostly(0.7),
    );
    flags.prop_map(
        |(enabled, readonly, nonvolatile, unmergeable, direct_reads)| Switches {
            enabled,
            readonly,
            nonvolatile,
            unmergeable,
            direct_reads,
        },
    )
}

fn new() -> impl Strategy<Value = New> {
    (0..16_u8, size(), switches(), some(), address()).prop_map(
        |(kind, size, switches, target, offset)| New {
            kind,
            size,
            switches,
            target,
            offset,
        },
    )
}

fn some() -> impl Strategy<Value = Pick> {
    any::<Pick>()
}

/// A region to place others in: often one of those that the spaces show.
fn parent() -> impl Strategy<Value = Pick> {
    prop_oneof![3 => Just(0), 1 => Just(1), 3 => some()]
}

/// Mostly empty.
fn near() -> impl Strategy<Value = u64> {
    prop_oneof![3 => Just(0), 1 => 0..3_u64]
}

/// Two small aliases of the same target, at first with the same offset. Half of
/// them have the same switches.
fn pair(mut first: New, other: Switches) -> [New; 2] {
    first.kind = AN_ALIAS;
    first.size = first.size % 8 + 1;
    first.offset %= 8;
    let mut second = first.clone();
    if first.target % 2 == 0 {
        second.switches = other;
    }
    [first, second]
}

/// Small regions of any kind.
fn small() -> impl Strategy<Value = New> {
    (new(), 1..5_u128).prop_map(|(new, size)| New { size, ..new })
}

/// A container with few children for its size.
fn full() -> impl Strategy<Value = Full> {
    let container = (new(), size()).prop_map(|(new, size)| New {
        kind: 0,
        size: size.max(24),
        ..new
    });
    let children = prop::collection::vec((small(), address()), 0..6);
    let alias = prop::option::weighted(0.3, new());
    let place = (parent(), address(), -1..2_i32);
    (container, children, alias, place).prop_map(
        |(container, children, alias, (parent, address, priority))| Full {
            container,
            children,
            alias,
            parent,
            address,
            priority,
        },
    )
}

fn clients() -> impl Strategy<Value = DirtyClients> {
    const SOME: [DirtyClients; 3] = [
        DirtyClients::NONE,
        DirtyClients::VGA,
        DirtyClients::MIGRATION,
    ];
    prop::sample::select(&SOME[..])
}

fn trigger() -> impl Strategy<Value = Trigger> {
    let value = || prop::option::of(0..2_u8);
    prop_oneof![
        Just(Trigger::AnyWrite),
        value().prop_map(Trigger::U8),
        value().prop_map(|v| Trigger::U16(v.map(u16::from))),
        value().prop_map(|v| Trigger::U32(v.map(u32::from))),
        value().prop_map(|v| Trigger::U64(v.map(u64::from))),
    ]
}

/// Mostly few different places, so that regions overlap.
fn attach() -> impl Strategy<Value = AttachOp> {
    let at = || prop_oneof![6 => 0..24_u64, 1 => address()];
    let range = |(start, more): (u64, u64)| {
        let last = start.saturating_add(more);
        AttachOp::Coalesced(AddrRange::from_bounds(start, last).unwrap())
    };
    prop_oneof![
        4 => (at(), trigger(), 0..2_i32).prop_map(|(at, t, fd)| AttachOp::Event(at, t, fd)),
        3 => (at(), 0..16_u64).prop_map(range),
        2 => some().prop_map(AttachOp::NoEvent),
        2 => some().prop_map(AttachOp::NoCoalesced),
    ]
}

/// Steps, some of which are nested parts.
fn op() -> impl Strategy<Value = Op> {
    simple_op().prop_recursive(2, 12, 6, |op| {
        (prop::collection::vec(op, 1..6), any::<bool>())
            .prop_map(|(ops, kept)| Op::Nested(ops, kept))
    })
}

fn simple_op() -> impl Strategy<Value = Op> {
    let priority = || -1..2_i32;
    prop_oneof![
        1 => new().prop_map(Op::Add),
        8 => (new(), parent(), address(), priority())
            .prop_map(|(n, p, a, r)| Op::AddIn(n, p, a, r)),
        2 => (new(), switches(), parent(), 0..WINDOW, [near(), near()])
            .prop_map(|(n, s, p, a, gaps)| Op::AddTwo(pair(n, s), p, a, gaps)),
        1 => (small(), parent(), 0..WINDOW, 1..6_u64, 2..20_u8)
            .prop_map(|(n, p, a, stride, count)| Op::AddRow(n, p, a, stride, count)),
        2 => full().prop_map(Op::AddFull),
        3 => (some(), parent(), address(), priority())
            .prop_map(|(c, p, a, r)| Op::Place(c, p, a, r)),
        4 => (some(), address()).prop_map(|(c, a)| Op::Move(c, a)),
        1 => some().prop_map(Op::Unplace),
        2 => (some(), prop::bool::weighted(0.6)).prop_map(|(c, on)| Op::Enable(c, on)),
        1 => (some(), any::<bool>()).prop_map(|(c, on)| Op::Readonly(c, on)),
        1 => (some(), any::<bool>()).prop_map(|(c, on)| Op::DirectReads(c, on)),
        1 => some().prop_map(Op::Remove),
        2 => (some(), clients()).prop_map(|(c, who)| Op::Log(c, who)),
        1 => clients().prop_map(Op::LogAll),
        8 => (some(), attach()).prop_map(|(node, op)| Op::Attach(node, op)),
    ]
}

/// Steps in units of some size: bytes, so that regions start and end anywhere,
/// or pages, which have a state.
pub fn steps() -> impl Strategy<Value = (u64, Vec<Step>)> {
    let units = prop_oneof![Just(1_u64), Just(PAGE_SIZE)];
    (units, prop::collection::vec(step(), 1..48)).prop_map(|(unit, mut steps)| {
        steps.iter_mut().for_each(|step| step.scale(unit));
        (unit, steps)
    })
}

fn step() -> impl Strategy<Value = Step> {
    let end = prop_oneof![6 => Just(End::Commit), 1 => Just(End::Drop), 2 => Just(End::Refuse)];
    let range = || {
        (0..2_usize, address(), 0..WINDOW / 4).prop_map(|(space, start, more)| {
            let last = start.saturating_add(more);
            (space, AddrRange::from_bounds(start, last).unwrap())
        })
    };
    prop_oneof![
        8 => (prop::collection::vec(op(), 1..10), end).prop_map(|(ops, end)| Step::Change(ops, end)),
        2 => (0..2_usize, some(), 0..4_u64, 1..WINDOW)
            .prop_map(|(s, run, skip, n)| Step::AcceptRun(s, run, skip, n)),
        1 => range().prop_map(|(s, r)| Step::Accept(s, r)),
        1 => range().prop_map(|(s, r)| Step::GiveBack(s, r)),
        1 => (0..2_usize).prop_map(|s| Step::Revoke(s, AddrRange::ALL)),
        1 => range().prop_map(|(s, r)| Step::Revoke(s, r)),
        1 => turn().prop_map(Step::Turn),
    ]
}

/// Who joins or leaves, mostly without a refusal.
fn turn() -> impl Strategy<Value = Turn> {
    let refuses = || prop::bool::weighted(0.2);
    prop_oneof![
        2 => (0..2_usize, -1..3, refuses()).prop_map(|(s, p, no)| Turn::Join(s, p, no)),
        2 => (some(), refuses()).prop_map(|(which, no)| Turn::Leave(which, no)),
        1 => (0..2_usize).prop_map(Turn::Renew),
    ]
}
