//! Where the types of services' messages come from.

use std::{collections::HashMap, sync::Arc};

use super::Builder;
use crate::{
    config::{
        choice::SchemaSource,
        file::{SchemaFiles, SchemaReflection, Upstream},
        node::Position,
        read::{At, Named},
    },
    schema::{self, Descriptors, Source},
};

impl Builder<'_> {
    /// The schemas by their upstream, files read.
    pub(super) fn schemas(
        &mut self,
        upstreams: &At<Named<Upstream>>,
    ) -> Option<HashMap<String, schema::Settings>> {
        let Named(entries) = &upstreams.value;
        let mut schemas = HashMap::new();
        let mut complete = true;
        for (name, upstream) in entries {
            let source = upstream.as_ref().and_then(|upstream| upstream.schema.as_ref());
            match source.map(|source| &source.value) {
                Some(SchemaSource::Off) => {}
                None | Some(SchemaSource::Reflection) => {
                    let source = Source::Reflection { fallback: None };
                    schemas.insert(name.value.clone(), schema::Settings::new(source));
                }
                Some(SchemaSource::Files(files)) => {
                    let at = source.map(|source| source.at).unwrap_or_default();
                    match self.schema(files, at) {
                        Some(settings) => drop(schemas.insert(name.value.clone(), settings)),
                        None => complete = false,
                    }
                }
            }
        }
        complete.then_some(schemas)
    }

    fn schema(&mut self, given: &SchemaFiles, at: Position) -> Option<schema::Settings> {
        let SchemaFiles { reflection, descriptor_set, protos, includes } = given;
        if let (Some(includes), None) = (includes, protos) {
            self.problems.add(includes.at, "`includes` is for `protos`, and there are none");
        }
        match (reflection, descriptor_set, protos) {
            (Some(reflection), None, None) => self.reflection(&reflection.value),
            (None, Some(file), None) => {
                let read = Descriptors::read_set(&self.path(file));
                let read = read.map_err(|error| self.problems.add(file.at, error.to_string())).ok()?;
                Some(schema::Settings::new(Source::Files(Arc::new(read))))
            }
            (None, None, Some(protos)) => {
                let files: Vec<_> = protos.value.0.iter().map(|file| self.path(file)).collect();
                let includes = includes.as_ref().map(|includes| &includes.value[..]).unwrap_or_default();
                let includes: Vec<_> = includes.iter().map(|include| self.path(include)).collect();
                if files.is_empty() {
                    return None;
                }
                let compiled = Descriptors::compile(&files, &includes);
                let compiled =
                    compiled.map_err(|error| self.problems.add(protos.at, error.to_string())).ok()?;
                Some(schema::Settings::new(Source::Files(Arc::new(compiled))))
            }
            (None, None, None) => {
                self.problems.add(at, "the schema needs one of reflection, descriptor_set, protos");
                None
            }
            _ => {
                let text = "the schema comes from one of reflection, descriptor_set, protos, not from several; a file \
                            beside reflection is its `fallback`";
                self.problems.add(at, text);
                None
            }
        }
    }

    fn reflection(&mut self, given: &SchemaReflection) -> Option<schema::Settings> {
        let mut settings = schema::Settings::new(Source::Reflection { fallback: None });
        self.time(&mut settings.refresh, given.refresh.as_ref());
        self.time(&mut settings.timeout, given.timeout.as_ref());
        if let Some(file) = &given.fallback {
            let path = self.path(file);
            let is_proto = path.extension().is_some_and(|extension| extension == "proto");
            let read =
                if is_proto { Descriptors::compile(&[path], &[]) } else { Descriptors::read_set(&path) };
            let read = read.map_err(|error| self.problems.add(file.at, error.to_string())).ok()?;
            settings.source = Source::Reflection { fallback: Some(Arc::new(read)) };
        }
        Some(settings)
    }
}
