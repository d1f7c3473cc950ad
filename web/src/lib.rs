//! samebits in a browser: what `page/engine.js` calls. A request is JSON that the page has written to this memory; what
//! happens meanwhile and the answer go back the same way, each through `say` of the page's `host.js`.

#![cfg(target_arch = "wasm32")]

mod run;

use std::cell::{Cell, RefCell};

use samebits::backend::Interrupt;
use serde_json::{Value, json};

#[link(wasm_import_module = "./host.js")]
unsafe extern "C" {
    #[link_name = "say"]
    fn page_say(text: *const u8, bytes: usize);
    /// Gives the page's event loop a turn, so that it hears what was said and can ask for a stop; nothing happens in a browser
    /// that cannot suspend a program.
    #[link_name = "suspend"]
    safe fn turn();
}

thread_local! {
    static REQUEST: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    static FILE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    static RUN: RefCell<run::Run> = RefCell::default();
    static STOP: Interrupt = Interrupt::default();
    static HOOKED: Cell<bool> = const { Cell::new(false) };
}

/// Tells the page something.
fn say(what: &Value) {
    let text = what.to_string();
    // SAFETY: the page copies the text before it returns.
    unsafe { page_say(text.as_ptr(), text.len()) }
}

/// Memory of so many bytes in a buffer, for the page to fill; null where there is none.
fn room(buffer: &RefCell<Vec<u8>>, bytes: usize) -> *mut u8 {
    let mut new = Vec::new();
    if new.try_reserve_exact(bytes).is_err() {
        return std::ptr::null_mut();
    }
    new.resize(bytes, 0);
    let at = new.as_mut_ptr();
    *buffer.borrow_mut() = new;
    at
}

/// Room for the text of a request.
#[unsafe(no_mangle)]
extern "C" fn request_room(bytes: usize) -> *mut u8 {
    REQUEST.with(|buffer| room(buffer, bytes))
}

/// Room for a GGUF file. What runs, and the file before, are given up first: there may not be memory for both.
#[unsafe(no_mangle)]
extern "C" fn file_room(bytes: usize) -> *mut u8 {
    RUN.with_borrow_mut(|run| *run = run::Run::default());
    FILE.with(|buffer| room(buffer, 0));
    FILE.with(|buffer| room(buffer, bytes))
}

/// Asks what is running to stop.
#[unsafe(no_mangle)]
extern "C" fn stop() {
    STOP.with(Interrupt::request);
}

/// Does what the text of the request asks for; one request at a time.
#[unsafe(no_mangle)]
extern "C" fn request() {
    if !HOOKED.replace(true) {
        std::panic::set_hook(Box::new(|panic| say(&json!({ "error": format!("this is a bug: {panic}") }))));
    }
    let text = REQUEST.take();
    let interrupt = STOP.with(Clone::clone);
    interrupt.clear();
    let answer = RUN.with_borrow_mut(|run| {
        let request = serde_json::from_slice(&text).map_err(|e| e.to_string())?;
        run.answer(request, &interrupt).map_err(|e| e.to_string())
    });
    say(&answer.unwrap_or_else(|message: String| json!({ "error": message })));
}
