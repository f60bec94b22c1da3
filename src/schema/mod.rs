//! Descriptors of upstreams: reflection, descriptor sets, JSON. Not built yet; nothing uses this floor.
