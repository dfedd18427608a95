//! Every kind of provider through the same operations and the same faults, on a real cluster and a real server each (or
//! what stands in for one), each test one provider. What they find is a column of the tables in
//! docs/providers/README.md: a test fails when the two differ, and `UPDATE_DOCS=1` writes them anew.

#[macro_use]
mod beds;
mod case;
mod conformance;
mod faults;
mod table;
mod world;
