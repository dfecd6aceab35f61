mod fake;
mod properties;
mod stories;
