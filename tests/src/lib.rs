//! The lab: nodes and pods as network namespaces.
