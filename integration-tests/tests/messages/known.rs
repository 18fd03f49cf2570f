//! What must be known of all files before one is read: which are of tests, and what the parameters of functions are called.

use std::collections::BTreeMap;

use proc_macro2::TokenStream;
use syn::visit::{self, Visit};
use syn::{Attribute, Expr, Pat};

/// What must be known of all files before one is read.
#[derive(Debug, Default)]
pub(crate) struct Known {
    pub(crate) file: String,
    /// Files and folders that are of tests, without `.rs`.
    tests: Vec<String>,
    /// The names of the parameters of functions, of methods (without `self`) and of closures with a name; none where two differ.
    pub(crate) parameters: BTreeMap<String, Vec<String>>,
}

impl Known {
    pub(crate) fn is_of_tests(&self, file: &str) -> bool {
        let module = file.trim_end_matches(".rs").trim_end_matches("/mod");
        self.tests.iter().any(|test| module == test || module.starts_with(&format!("{test}/")))
    }

    fn add(&mut self, function: String, parameters: &[String]) {
        let known = self.parameters.entry(function).or_insert_with(|| parameters.to_owned());
        if known != parameters {
            known.clear();
        }
    }
}

impl<'f> Visit<'f> for Known {
    fn visit_item_mod(&mut self, module: &'f syn::ItemMod) {
        if is_for_tests(&module.attrs) {
            let path = self.file.trim_end_matches(".rs");
            let folder = match path.rsplit_once('/') {
                Some((folder, "mod")) => folder,
                _ if matches!(path, "lib" | "mod") => "",
                _ => path,
            };
            let name = &module.ident;
            self.tests.push(if folder.is_empty() { name.to_string() } else { format!("{folder}/{name}") });
        } else {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_signature(&mut self, signature: &'f syn::Signature) {
        let typed = signature.inputs.iter().filter_map(|input| match input {
            syn::FnArg::Typed(typed) => Some(name_of(&typed.pat)),
            syn::FnArg::Receiver(_) => None,
        });
        self.add(signature.ident.to_string(), &typed.collect::<Vec<_>>());
    }

    fn visit_local(&mut self, local: &'f syn::Local) {
        if let Some(Expr::Closure(closure)) = local.init.as_ref().map(|init| &*init.expr) {
            self.add(name_of(&local.pat), &closure.inputs.iter().map(name_of).collect::<Vec<_>>());
        }
        visit::visit_local(self, local);
    }
}

/// The name that a pattern binds; empty if it is no single one.
pub(crate) fn name_of(pattern: &Pat) -> String {
    match pattern {
        Pat::Ident(name) => name.ident.to_string(),
        Pat::Type(typed) => name_of(&typed.pat),
        _ => String::new(),
    }
}

pub(crate) fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let is_test = |tokens: &TokenStream| tokens.to_string().replace(' ', "");
        attribute.path().is_ident("cfg")
            && attribute
                .meta
                .require_list()
                .is_ok_and(|list| matches!(is_test(&list.tokens).as_str(), "test" | "any(test,fuzzing)"))
    })
}
