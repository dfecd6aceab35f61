mod failures;
mod fake;
mod full_cache;
mod properties;
mod queue;
mod stories;
