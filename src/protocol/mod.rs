//! The wire types: what the API answers, defined once for its server and its clients.

pub mod doctor;
