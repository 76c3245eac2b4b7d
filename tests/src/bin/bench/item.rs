//! All rows, in the order in which they are measured.

use crate::{
    case::{CHURNS, Case, FLOWS},
    enrolment, istiod_churn,
    memory::{self, MESHES, Mesh},
    mesh_churn, mesh_load, restart,
};

/// What a row is measured by.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Item {
    Traffic(&'static Case),
    Mesh(&'static Mesh),
    Connections,
    Enrolment,
    MeshLoad,
    MeshChurn,
    IstiodChurn,
    Restart,
}

impl Item {
    /// What `--rows` is matched with.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Traffic(case) => case.name,
            Self::Mesh(mesh) => mesh.name,
            Self::Connections => memory::CONNECTIONS.0,
            Self::Enrolment => enrolment::NAME.0,
            Self::MeshLoad => mesh_load::NAME.0,
            Self::MeshChurn => mesh_churn::NAME.0,
            Self::IstiodChurn => istiod_churn::NAME.0,
            Self::Restart => restart::NAME.0,
        }
    }

    /// What it measures, for a reader.
    pub(crate) fn title(&self) -> &'static str {
        match self {
            Self::Traffic(case) => case.title,
            Self::Mesh(mesh) => mesh.title,
            Self::Connections => memory::CONNECTIONS.1,
            Self::Enrolment => enrolment::NAME.1,
            Self::MeshLoad => mesh_load::NAME.1,
            Self::MeshChurn => mesh_churn::NAME.1,
            Self::IstiodChurn => istiod_churn::NAME.1,
            Self::Restart => restart::NAME.1,
        }
    }
}

/// The rows whose names contain one of `parts`, or all when there are none. Churn is last: what it leaves in TIME_WAIT
/// is there for a minute.
pub(crate) fn picked(parts: &[String]) -> Vec<Item> {
    let all = (FLOWS.iter().map(Item::Traffic))
        .chain(MESHES.iter().map(Item::Mesh))
        .chain([Item::Connections, Item::Enrolment])
        .chain([Item::MeshLoad, Item::MeshChurn, Item::IstiodChurn, Item::Restart])
        .chain(CHURNS.iter().map(Item::Traffic));
    all.filter(|item| parts.is_empty() || parts.iter().any(|part| item.name().contains(part)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_no_churn_is_before_a_row_of_another_kind() {
        let all = picked(&[]);
        let mut names: Vec<_> = all.iter().map(Item::name).collect();
        assert!(
            names.iter().rev().take(2).all(|name| name.starts_with("churn")),
            "{names:?}"
        );
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all.len());
    }
}
