// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a machine is: plain data.

/// A machine and its guest's script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// What the machine is called.
    pub name: String,
    /// The regions, parents before their children and targets before their
    /// aliases. The first is the root.
    pub regions: Vec<Region>,
    /// What happens, in order.
    pub steps: Vec<Step>,
    /// What the VMM does where the guest takes a page for what it is not.
    pub on_memory_fault: OnMemoryFault,
}

/// What the VMM does at a memory fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnMemoryFault {
    /// The access ends there, and that is what is seen of it.
    #[default]
    Report,
    /// The pages become what the guest takes them for, if they can, and the
    /// guest tries again: what it then comes to is what is seen.
    Convert,
}

/// A region of the machine. Others name it by its index in
/// [`Machine::regions`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// Its name, unique in the machine.
    pub name: String,
    /// Where it lies; `None` for the root, and for targets of aliases that
    /// lie nowhere themselves.
    pub place: Option<Place>,
    /// The number of bytes, 1 to 2^64.
    pub size: u128,
    /// What it is.
    pub kind: Kind,
    /// Whether it is there to begin with.
    pub enabled: bool,
    /// Whether guest writes to memory in it are dropped.
    pub readonly: bool,
    /// What its bytes hold to begin with, where that is not zero.
    pub init: Vec<Init>,
}

/// Where a region lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// In which region.
    pub parent: usize,
    /// At which offset in it.
    pub at: u64,
    /// Which of overlapping siblings wins: the highest.
    pub priority: i32,
}

/// What a region is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Holds other regions.
    Container,
    /// Claims addresses that answer nothing.
    Reserved,
    /// Trapped: a device answers.
    Mmio(DeviceKind),
    /// Memory.
    Ram(Backing),
    /// Memory that the guest cannot write.
    Rom,
    /// A flash chip: memory that is read directly while the chip is in array
    /// mode.
    RomDevice,
    /// A device's memory, mapped in the host.
    DeviceRam,
    /// A device's registers that only the guest can touch.
    PrivateMmio,
    /// A window onto another region.
    Alias {
        /// The other region.
        target: usize,
        /// How far into it the window starts.
        offset: u64,
    },
    /// A BAR of an assigned device, cut into private, shared and trapped
    /// pieces by `vfio-private`.
    Bar(Bar),
}

/// What RAM is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Memory of the VMM.
    Host,
    /// A guest_memfd that the VMM has mapped.
    GuestMemfd,
    /// Memory of the VMM for shared pages, a guest_memfd for private ones.
    Private,
}

/// The devices that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// Identification, inverter and factorial registers.
    Edu,
    /// Registers that hold what is written.
    Registers,
    /// Counts how often it was read.
    Counter,
}

/// What is known of a BAR.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bar {
    /// Offset and size of the MSI-X table.
    pub msix_table: Option<(u64, u64)>,
    /// Offset and size of the MSI-X pending bits.
    pub msix_pba: Option<(u64, u64)>,
    /// The ranges that only the guest may touch (offset, size).
    pub private: Vec<(u64, u64)>,
    /// The ranges that the host may touch too (offset, size).
    pub shared: Vec<(u64, u64)>,
}

/// A value in memory to begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Init {
    /// Offset in the region.
    pub at: u64,
    /// Bytes: 1, 2, 4 or 8.
    pub size: usize,
    /// The value, little-endian.
    pub value: u64,
}

/// One step of the script, with what is expected of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The guest loads or stores.
    Guest(Access),
    /// The VMM does something while the guest runs.
    Vmm(Action),
}

/// A load or store of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// The guest-physical address.
    pub gpa: u64,
    /// Bytes: 1, 2, 4 or 8.
    pub size: usize,
    /// What it does.
    pub kind: AccessKind,
    /// Whether the guest's page table says that its pages are private. `None`
    /// for an access that takes every page for what it is.
    pub private: Option<bool>,
    /// How it is expected to be resolved.
    pub how: How,
}

/// Load or store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessKind {
    /// A load that is expected to give this value; any value if none is said,
    /// which only a load that fails can do.
    Read(Option<u64>),
    /// A store of this value.
    Write(u64),
}

/// How an access was resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Without the VMM.
    Direct,
    /// By an exit that the VMM answered.
    Mmio,
    /// By an exit on a store to ROM, which the VMM dropped.
    RomWrite,
    /// By a memory fault: the page is private and the memory is not, or the
    /// other way round; or the page is not what the guest takes it for.
    MemoryFault,
    /// Not at all.
    Error,
}

impl How {
    /// The word that machine files and reports use.
    pub fn word(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Mmio => "mmio",
            Self::RomWrite => "rom-write",
            Self::MemoryFault => "memory-fault",
            Self::Error => "error",
        }
    }
}

/// Something that the VMM does, and the error it is to fail with, if any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// What it does.
    pub what: ActionKind,
    /// The expected error.
    pub fails: Option<ErrorCode>,
}

/// Why an action can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    /// It concerns private MMIO that the guest has accepted.
    Accepted,
    /// The pages are of another kind than it needs.
    WrongKind,
    /// It concerns parts of pages.
    Unaligned,
    /// There is no host address to reach the bytes through.
    NoHostAddress,
    /// This kernel cannot do it.
    Unsupported,
    /// There would be more memslots than the kernel has.
    TooManySlots,
    /// Rendering the regions would not end.
    TooComplex,
    /// The region tree does not allow it.
    Tree,
    /// KVM refused.
    Kvm,
}

impl ErrorCode {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Accepted,
        Self::WrongKind,
        Self::Unaligned,
        Self::NoHostAddress,
        Self::Unsupported,
        Self::TooManySlots,
        Self::TooComplex,
        Self::Tree,
        Self::Kvm,
    ];

    /// The word that machine files and reports use.
    pub fn word(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::WrongKind => "wrong-kind",
            Self::Unaligned => "unaligned",
            Self::NoHostAddress => "no-host-address",
            Self::Unsupported => "unsupported",
            Self::TooManySlots => "too-many-slots",
            Self::TooComplex => "too-complex",
            Self::Tree => "tree",
            Self::Kvm => "kvm",
        }
    }
}

/// What a VMM does while its guest runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ActionKind {
    /// A region goes to another offset in its parent.
    Move {
        /// The region.
        region: usize,
        /// The new offset.
        to: u64,
    },
    /// A region comes or goes.
    Enable {
        /// The region.
        region: usize,
        /// Whether it comes.
        on: bool,
    },
    /// Guest writes to a region's memory are forbidden or allowed.
    ReadOnly {
        /// The region.
        region: usize,
        /// Whether they are forbidden.
        on: bool,
    },
    /// A flash chip's reads are direct or trap.
    DirectReads {
        /// The region.
        region: usize,
        /// Whether they are direct.
        on: bool,
    },
    /// The guest accepts private MMIO.
    Accept(Span),
    /// The guest gives accepted private MMIO back.
    GiveBack(Span),
    /// The device takes accepted private MMIO back.
    Revoke(Span),
    /// Pages become private or shared.
    Convert {
        /// The pages.
        span: Span,
        /// Whether they become private.
        private: bool,
    },
    /// The VMM reads memory through its host address, and expects a value.
    HostRead {
        /// The guest-physical address.
        gpa: u64,
        /// Bytes: 1, 2, 4 or 8.
        size: usize,
        /// The expected value.
        expect: Option<u64>,
    },
    /// The VMM writes memory through its host address.
    HostWrite {
        /// The guest-physical address.
        gpa: u64,
        /// Bytes: 1, 2, 4 or 8.
        size: usize,
        /// The value.
        value: u64,
    },
}

/// A run of guest-physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first.
    pub gpa: u64,
    /// How many, at least one and not past 2^64.
    pub size: u64,
}

impl Machine {
    /// The guest's own accesses, in order.
    pub fn accesses(&self) -> impl Iterator<Item = &Access> {
        self.steps.iter().filter_map(|step| match step {
            Step::Guest(access) => Some(access),
            Step::Vmm(_) => None,
        })
    }

    /// Whether some page can be private, which takes a VM of another type.
    pub fn has_private_pages(&self) -> bool {
        let mut kinds = self.regions.iter().map(|region| &region.kind);
        kinds.any(|kind| *kind == Kind::Ram(Backing::Private))
    }
}
