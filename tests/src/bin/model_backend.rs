//! An OpenAI- and Anthropic-compatible model server that says what it is told to.

use std::io;

use culvert_tests::backend::ModelBackend;
use culvert_tests::serve;

#[tokio::main]
async fn main() -> io::Result<()> {
    serve::run(ModelBackend::default()).await
}
