//! Reads one file: each text with its place and its role.

use proc_macro2::{Delimiter, Span, TokenStream, TokenTree};
use syn::parse::Parser;
use syn::punctuated::Punctuated;
use syn::visit::{self, Visit};
use syn::{Attribute, Expr, ExprLit, Lit, LitStr, Pat, Token};

use crate::known::{Known, is_for_tests, name_of};
use crate::role::{self, FORMATTING, LOGGING, QUIET, Role, role_of_argument, role_of_name};
use crate::source::{Literal, Source};
use crate::text::Text;

/// A file that is being read.
pub(crate) struct Reader<'s> {
    source: &'s mut Source,
    known: &'s Known,
    file: &'s str,
    item: String,
    role: Role,
}

impl<'s> Reader<'s> {
    pub(crate) fn new(source: &'s mut Source, known: &'s Known, file: &'s str) -> Self {
        Self { source, known, file, item: String::new(), role: Role::Unknown }
    }
}

impl Reader<'_> {
    fn note(&mut self, span: Span, text: Text) {
        let place = format!("src/{}:{}", self.file, span.start().line);
        let (file, item, role) = (self.file.to_owned(), self.item.clone(), self.role);
        self.source.literals.push(Literal { place, file, item, text, role });
    }

    fn with(&mut self, role: Option<Role>, read: impl FnOnce(&mut Self)) {
        // What is in a text that is none is none.
        let role = role.filter(|_| self.role != Role::Other).unwrap_or(self.role);
        let before = std::mem::replace(&mut self.role, role);
        read(self);
        self.role = before;
    }

    fn within(&mut self, item: &str, read: impl FnOnce(&mut Self)) {
        let before = std::mem::replace(&mut self.item, item.to_owned());
        read(self);
        self.item = before;
    }

    /// A value for a name, or the values for several.
    fn bound(&mut self, pattern: &Pat, value: &Expr) {
        match (pattern, value) {
            (Pat::Tuple(names), Expr::Tuple(values)) if names.elems.len() == values.elems.len() => {
                names.elems.iter().zip(&values.elems).for_each(|(name, value)| self.bound(name, value));
            }
            (Pat::Tuple(_), Expr::Match(choice)) => {
                self.visit_expr(&choice.expr);
                choice.arms.iter().for_each(|arm| self.bound(pattern, &arm.body));
            }
            (Pat::Tuple(_), Expr::Block(block)) => self.block(pattern, &block.block),
            (Pat::Tuple(_), Expr::If(choice)) => {
                self.visit_expr(&choice.cond);
                self.block(pattern, &choice.then_branch);
                if let Some((_, otherwise)) = &choice.else_branch {
                    self.bound(pattern, otherwise);
                }
            }
            // It has the name of what it makes.
            (_, Expr::Closure(closure)) => self.visit_expr_closure(closure),
            _ => {
                let role = role_of_name(&name_of(pattern), self.file);
                self.with(role, |reader| reader.visit_expr(value));
            }
        }
    }

    fn block(&mut self, pattern: &Pat, block: &syn::Block) {
        for statement in &block.stmts {
            match statement {
                syn::Stmt::Expr(value, None) => self.bound(pattern, value),
                other => self.visit_stmt(other),
            }
        }
    }

    fn arguments(&mut self, callee: &str, arguments: &Punctuated<Expr, Token![,]>) {
        let function = callee.rsplit("::").next().unwrap_or(callee);
        for (index, argument) in arguments.iter().enumerate() {
            let named = || {
                let names = self.known.parameters.get(function)?;
                (names.len() == arguments.len()).then(|| role_of_name(&names[index], self.file))?
            };
            let role = role_of_argument(callee, index).or_else(named);
            self.with(role, |reader| reader.visit_expr(argument));
        }
    }

    /// The texts of a macro that is no list of expressions.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut before: Vec<String> = Vec::new();
        for token in tokens {
            match &token {
                TokenTree::Literal(literal) => {
                    if let Ok(Lit::Str(text)) = syn::parse2(TokenStream::from(token.clone())) {
                        self.note(literal.span(), Text::plain(&text.value()));
                    }
                }
                TokenTree::Group(group) => {
                    let name = before.last().map(String::as_str).unwrap_or_default();
                    let is_macro = name == "!" && before.len() > 1;
                    if is_macro {
                        let name = before[before.len() - 2].clone();
                        self.read_macro(&name, group.stream());
                    } else if group.delimiter() == Delimiter::Parenthesis && role::is_other(name) {
                        self.with(Some(Role::Other), |reader| reader.tokens(group.stream()));
                    } else {
                        self.tokens(group.stream());
                    }
                }
                TokenTree::Ident(_) | TokenTree::Punct(_) => {}
            }
            before.push(token.to_string());
        }
    }

    fn read_macro(&mut self, name: &str, tokens: TokenStream) {
        if QUIET.contains(&name) {
            return self.with(Some(Role::Other), |reader| reader.tokens(tokens));
        }
        if name == "log"
            && tokens.clone().into_iter().next().is_some_and(|level| QUIET.contains(&&*level.to_string()))
        {
            return self.with(Some(Role::Other), |reader| reader.tokens(tokens));
        }
        let role = LOGGING.contains(&name).then_some(Role::Message);
        let is_formatting = role.is_some() || FORMATTING.contains(&name);
        let list = Punctuated::<Expr, Token![,]>::parse_terminated.parse2(tokens.clone());
        self.with(role, |reader| match list {
            Ok(list) => {
                for expression in &list {
                    match expression {
                        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) if is_formatting => {
                            reader.format(text);
                        }
                        // A field of a line of the log.
                        Expr::Assign(_) if role.is_some() => {}
                        other => reader.visit_expr(other),
                    }
                }
            }
            // As `%error` in a line of the log.
            Err(_) if role.is_some() => reader.fields(tokens),
            Err(_) => reader.tokens(tokens),
        });
    }

    /// The text of a line of the log, which stands behind its fields.
    fn fields(&mut self, tokens: TokenStream) {
        let mut is_value = false;
        for token in tokens {
            let is_equals = token.to_string() == "=";
            if let Ok(Lit::Str(text)) = syn::parse2(TokenStream::from(token))
                && !is_value
            {
                self.format(&text);
            }
            is_value = is_equals;
        }
    }

    fn format(&mut self, text: &LitStr) {
        self.note(text.span(), Text::format(&text.value()));
    }
}

impl<'f> Visit<'f> for Reader<'_> {
    fn visit_item(&mut self, item: &'f syn::Item) {
        let (attributes, name) = match item {
            syn::Item::Const(item) => (&item.attrs, Some(&item.ident)),
            syn::Item::Static(item) => (&item.attrs, Some(&item.ident)),
            syn::Item::Fn(item) => (&item.attrs, Some(&item.sig.ident)),
            syn::Item::Impl(item) => (&item.attrs, None),
            syn::Item::Mod(item) => (&item.attrs, None),
            syn::Item::Use(item) => (&item.attrs, None),
            _ => return visit::visit_item(self, item),
        };
        if is_for_tests(attributes) {
            return;
        }
        match name {
            Some(name) => self.within(&name.to_string(), |reader| visit::visit_item(reader, item)),
            None => visit::visit_item(self, item),
        }
    }

    fn visit_item_enum(&mut self, item: &'f syn::ItemEnum) {
        let variants = item.variants.iter().map(|variant| snake_case(&variant.ident.to_string()));
        self.source.enums.insert((self.file.to_owned(), item.ident.to_string()), variants.collect());
        visit::visit_item_enum(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'f syn::ImplItemFn) {
        if !is_for_tests(&item.attrs) {
            let name = item.sig.ident.to_string();
            self.within(&name, |reader| visit::visit_impl_item_fn(reader, item));
        }
    }

    fn visit_impl_item_const(&mut self, item: &'f syn::ImplItemConst) {
        let name = item.ident.to_string();
        self.within(&name, |reader| visit::visit_impl_item_const(reader, item));
    }

    /// Of attributes, only those of thiserror are read by people, apart from the documentation.
    fn visit_attribute(&mut self, attribute: &'f Attribute) {
        if !attribute.path().is_ident("error") {
            return;
        }
        let Ok(list) = attribute.meta.require_list() else { return };
        let mut tokens = list.tokens.clone().into_iter();
        let first = tokens.next().map(TokenStream::from);
        if let Some(Ok(Lit::Str(text))) = first.map(syn::parse2) {
            self.with(Some(Role::Message), |reader| reader.format(&text));
        }
        self.tokens(tokens.collect());
    }

    fn visit_local(&mut self, local: &'f syn::Local) {
        let Some(init) = &local.init else { return };
        self.bound(&local.pat, &init.expr);
        if let Some((_, diverging)) = &init.diverge {
            self.visit_expr(diverging);
        }
    }

    fn visit_field_value(&mut self, field: &'f syn::FieldValue) {
        let name = match &field.member {
            syn::Member::Named(name) => name.to_string(),
            syn::Member::Unnamed(_) => String::new(),
        };
        self.with(role_of_name(&name, self.file), |reader| reader.visit_expr(&field.expr));
    }

    fn visit_expr_call(&mut self, call: &'f syn::ExprCall) {
        let callee = match &*call.func {
            Expr::Path(path) => {
                let segments: Vec<String> =
                    path.path.segments.iter().map(|segment| segment.ident.to_string()).collect();
                segments[segments.len().saturating_sub(2)..].join("::")
            }
            other => {
                self.visit_expr(other);
                String::new()
            }
        };
        self.arguments(&callee, &call.args);
    }

    fn visit_expr_method_call(&mut self, call: &'f syn::ExprMethodCall) {
        self.visit_expr(&call.receiver);
        let method = call.method.to_string();
        if role::is_other(&method) {
            self.with(Some(Role::Other), |reader| call.args.iter().for_each(|one| reader.visit_expr(one)));
        } else {
            self.arguments(&method, &call.args);
        }
    }

    fn visit_pat(&mut self, _: &'f Pat) {
        // What a text is compared with is of another one.
    }

    fn visit_expr_binary(&mut self, binary: &'f syn::ExprBinary) {
        let is_comparison = matches!(binary.op, syn::BinOp::Eq(_) | syn::BinOp::Ne(_));
        self.with(is_comparison.then_some(Role::Other), |reader| visit::visit_expr_binary(reader, binary));
    }

    fn visit_macro(&mut self, called: &'f syn::Macro) {
        let name = called.path.segments.last().map(|last| last.ident.to_string()).unwrap_or_default();
        self.read_macro(&name, called.tokens.clone());
    }

    fn visit_expr_lit(&mut self, literal: &'f ExprLit) {
        if let Lit::Str(text) = &literal.lit {
            self.note(text.span(), Text::plain(&text.value()));
        }
    }
}

fn snake_case(name: &str) -> String {
    let mut word = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !word.is_empty() {
            word.push('_');
        }
        word.extend(letter.to_lowercase());
    }
    word
}
