//! Resources: the small documents that people write and control keeps.
//!
//! A document is stored raw, so that what this build does not know survives a rewrite by it. What
//! this build knows is its typed view ([`Spec`]), read field by field: files and `PUT` are read
//! strictly (a field that nothing reads is an error with its path and line), stored documents
//! leniently. A known field with a bad value is an error in both: no default stands in for a
//! limit that somebody meant.

mod document;
mod fields;
mod file;
mod pattern;
mod specs;
mod value;

pub use self::{
    document::{Document, InvalidDocument, ResourceKind, ResourceName},
    fields::{Fields, Finding, Problem},
    file::{FileDocument, FileError, MAX_FILE, read_file, read_one},
    pattern::{Allow, Pattern, PatternError, TargetPattern},
    specs::{
        AdminKeySpec, AgentSpec, Approval, ConnectorSpec, KeySpec, PlaneSpec, Role, Spec,
        TenantSpec,
    },
    value::{Span, Timestamp, ValueError},
};
