//! The one glob language, twin of src/lib/glob.ts; test/fixtures/glob-vectors.json holds both to the same answers.
