---@meta unsync
-- What unsync has, for editors (LuaLS), for `.doc` at the prompt and for docs/reference.md, which is made from this.
-- It is never run; spec/meta_spec.lua holds it to what is really there. A method is written under the name that the
-- reference uses for its object: `function future:await(seconds) end`.

---A Lua in which whoever writes a function decides how it runs, and whoever calls it just calls it. Seconds are
---numbers. Wrong arguments raise at the call; what "raises" else says so with its code.
---@class unsync
---@field Future table  the methods of futures and promises; a function put there becomes one more
---@field http unsync.http  loaded when it is first looked at, as `testing` is
---@field testing unsync.testing
local unsync = {}

---What the runtime raises. What user code raises arrives unchanged.
---@class unsync.Error
---@field code string  `timeout`, `deadlock`, `crashed`, `cancelled`, `unsendable`, `unyieldable`, `limit`, `closed`, `plugin`, `abandoned`, `all_failed`, or a system call's own name: `ENOENT`
---@field message string
---@field path? string  of `unsendable`: the value that cannot cross
---@field signal? string  of `crashed`: "SIGSEGV"
---@field exit_code? integer  of `crashed`
---@field errors? any[]  of `all_failed`, in the order of the list
---@field others? any[]  of a failed scope: the errors after the first

---@class unsync.FunctionOptions
---@field name? string  for errors, traces and `unsync.place`; default: `file:line` of the function, or the name of the native task or library function
---@field timeout? number  seconds from the call, time in line included; then the future fails with `timeout`
---@field run_timeout? number  seconds from its start
---@field limit? integer  most calls of this function that run at once; the others wait in line, but for those that it waits for itself
---@field grace? number  seconds between asking a call to stop and making it; default: 0.5
---@field fresh? boolean  a new Lua state for each call

---## Declaring

---A function whose calls run as coroutines on the ambient loop: at once, until they first wait. Each call returns its
---future, and does not wait.
---@param fn function
---@param opts? unsync.FunctionOptions
---@return fun(...: any): unsync.Future
function unsync.io(fn, opts) end

---A function whose calls run in threads of a pool, each in a Lua state of that thread: for libraries that block. A
---call does not wait; it raises `unsendable` where an argument or upvalue cannot cross, and nothing has run.
---@param fn function|string  or a native task: "plugin.task"; raises `plugin` where there is none
---@param opts? unsync.FunctionOptions
---@return fun(...: any): unsync.Future
function unsync.thread(fn, opts) end

---A function whose calls run in worker processes, as many at once as there are cores: for computation, and for code
---that may crash, leak or never return. Calls as those of `unsync.thread`.
---@param fn function|string  or a native task: "plugin.task"; raises `plugin` where there is none
---@param opts? unsync.FunctionOptions
---@return fun(...: any): unsync.Future
function unsync.cpu(fn, opts) end

---An awaitable version of a function that takes a callback last: the future has all that the callback was given.
---Where `fn` returns `nil, message` instead of starting, it fails with the message.
---@param fn function
---@return fun(...: any): unsync.Future
function unsync.wrap(fn) end

---A function that makes a value at its first call in each state, and keeps it there: a connection, a cache. Whoever
---comes while it is being made waits for it. A failure is raised, and forgotten.
---@param fn function
---@return fun(): any
function unsync.once(fn) end

---Moves functions that were declared with a name: by name (`fib`), prefix (`image.*`), executor (`*.cpu`), or all
---(`*`). For functions declared already and those to come; calls under way stay where they are.
---@param rules table<string, "io"|"thread"|"cpu">
function unsync.place(rules) end

---What a plugin has: `name`, `version`, `doc`, and `tasks`, each with `name` and `doc`. Raises `plugin` where it is
---not found or cannot be used.
---@param name string  or the path of its file
---@return table
function unsync.plugin(name) end

---Calls any function as a task, as `unsync.io(fn)(...)` would; of a declared one it is simply a call. Does not wait.
---@param fn function
---@param ... any  its arguments
---@return unsync.Future
function unsync.spawn(fn, ...) end

---## Futures

---What a call will have returned. Any number of tasks may wait for it, wherever they are, threads and processes too.
---`local future <close> = …` cancels it at the end of the block if it is pending, and waits for it to end.
---@class unsync.Future
local future = {}

---Waits until it has settled; returns all results, or raises the error. After `seconds` it raises `timeout`, and
---leaves the work alone.
---@param seconds? number
---@return any ...
function future:await(seconds) end

---The same as `await`.
---@param seconds? number
---@return any ...
function future:result(seconds) end

---Whether it has settled.
---@return boolean
function future:done() end

---@return "pending"|"running"|"done"|"failed"|"cancelled"
function future:status() end

---Asks the work to stop: the task gets `cancelled` at its wait, Lua in a worker is interrupted, and what does not
---listen is made to after its grace. A promise settles at once. Any state that has the future may, wherever the work is.
---Does not wait.
---@param reason? any  for the error's message
---@return boolean  whether it had not settled
function future:cancel(reason) end

---Whether it ended by being cancelled.
---@return boolean
function future:cancelled() end

---The error of a failed one, without raising; else nil. Counts as looking at the failure.
---@return any
function future:error() end

---Where a failed one failed, in whatever worker, and where it was awaited; else nil. Counts as looking.
---@return string?
function future:traceback() end

---The last progress that a native task has reported: done and total, or nothing. With `fn`, that is called for each
---report to come, and the future is returned. Does not wait.
---@param fn? fun(done: number, total: number)
---@return any ...
function future:progress(fn) end

---A future of `fn(results...)`; a failure goes past it. A future that `fn` returns is followed.
---@param fn function
---@return unsync.Future
function future:and_then(fn) end

---A future of the results, or of `fn(error)` where it failed.
---@param fn function
---@return unsync.Future
function future:catch(fn) end

---A future with the same outcome, after `fn()`; an error of `fn` replaces it.
---@param fn function
---@return unsync.Future
function future:finally(fn) end

---Takes it out of the scopes it was called in, to the script itself. Raises in a worker, whose root is the call.
---@return unsync.Future  itself
function future:detach() end

---A future that is settled by hand, once, from wherever it was sent to.
---@class unsync.Promise: unsync.Future
local promise = {}

---Settles it with these results. Does not wait.
---@param ... any
---@return boolean  whether this was what settled it
function promise:resolve(...) end

---Settles it as failed. Does not wait.
---@param err any
---@return boolean  whether this was what settled it
function promise:reject(err) end

---A future to be settled by hand.
---@return unsync.Promise
function unsync.promise() end

---A future that has settled, with these results.
---@param ... any
---@return unsync.Future
function unsync.resolved(...) end

---A future that has failed.
---@param err any
---@return unsync.Future
function unsync.rejected(err) end

---@param value any
---@return boolean
function unsync.is_future(value) end

---## Combining

---A future of the table of first results, in order; or of the first failure, and the others are cancelled. An item
---that is no future raises at the call, here and in those that follow.
---@param list unsync.Future[]
---@return unsync.Future
function unsync.all(list) end

---A future of the list itself, once all have settled. It never fails.
---@param list unsync.Future[]
---@return unsync.Future
function unsync.settled(list) end

---A future of the results of the first that succeeds; the others are cancelled. If none does, it fails with
---`all_failed`, whose `errors` are in order. Raises for an empty list.
---@param list unsync.Future[]
---@return unsync.Future
function unsync.any(list) end

---A future with the outcome of the first to settle; the others are cancelled. Raises for an empty list.
---@param list unsync.Future[]
---@return unsync.Future
function unsync.race(list) end

---Iterates over the futures in the order in which they settle, failed ones too; each step waits. Leaving the loop
---leaves the others as they are.
---@param list unsync.Future[]
---@return fun(): unsync.Future?
function unsync.as_completed(list) end

---@class unsync.MapOptions
---@field concurrency? integer  calls that run or whose results wait to be taken; default: one for each core for cpu functions, else 16
---@field ordered? boolean  false: results as they come; default: true

---Iterates over the first results of `fn(item)` and the items' numbers; each step waits. A failure is raised when
---its turn has come; so is a nil, which would end the loop. Leaving the loop cancels what runs.
---@param fn function  any; one that was not declared runs as a task
---@param items any[]|fun(): any  a list, or a function that is called for the next item until it returns nil; it may wait
---@param opts? unsync.MapOptions
---@return fun(): any, integer
function unsync.map(fn, items, opts) end

---@class unsync.RetryOptions
---@field attempts? integer  calls at most; default: 3
---@field backoff? number  seconds before the second call, then twice that, and so on; default: 0.1
---@field jitter? number  0 to 1: the part of each wait that is left to chance; default: 0
---@field on? string[]|fun(err: any, attempt: integer): boolean  the codes to try again after, or what says whether to

---Calls `fn(attempt)` until it succeeds, and returns its results; else raises its last error. Waits: between calls,
---and for a future that it returns. A cancellation is never tried again.
---@param fn fun(attempt: integer): any
---@param opts? unsync.RetryOptions
---@return any ...
function unsync.retry(fn, opts) end

---## Scopes and tasks

---@class unsync.ScopeOptions
---@field timeout? number  seconds, then all is cancelled and `timeout` raised
---@field limit? integer  children running at once, the others wait for their turn

---Runs `fn(scope)` here and returns what it returns, when all that was started inside has ended: waits for that. The
---first failure of a child or of `fn` cancels the rest and is raised, the other errors in its `others` where it is a
---table.
---@param opts? unsync.ScopeOptions
---@param fn fun(scope: unsync.Scope): any
---@return any ...
function unsync.scope(opts, fn) end

---What `unsync.scope` hands to its function.
---@class unsync.Scope
local scope = {}

---Starts a child: a call of any function, declared or not. Any task may do so until the scope has ended; then it
---raises `closed`. Does not wait.
---@param fn function
---@param ... any  its arguments
---@return unsync.Future
function scope:spawn(fn, ...) end

---A context variable: what a task and all that it starts see, in threads and processes too. With a name it is the
---same one wherever that name is given, and native tasks can read it.
---@param default? any
---@param name? string  of letters, digits, `_` and `.`
---@return unsync.Var
function unsync.var(default, name) end

---@class unsync.Var
local var = {}

---What the running task sees.
---@return any
function var:get() end

---For the running task, and what it starts from now on.
---@param value any
function var:set(value) end

---Runs `fn` here with the variable set, and returns what it returns; then what was before comes back, whatever the end.
---@param value any
---@param fn function
---@param ... any  its arguments
---@return any ...
function var:with(value, fn, ...) end

---The future of the running task; nil in a callback.
---@return unsync.Future?
function unsync.current() end

---@class unsync.TaskInfo
---@field kind string  "io", "thread" or "cpu"
---@field name? string  of the function; "main" is the script
---@field state string  "running", "ready", "waiting", or "queued": it has not begun
---@field age number  seconds
---@field where? string  `file:line` of where it waits or runs
---@field spawned? string  `file:line` of where it was started, once it has waited
---@field waits_for? string  "future", "sleep" and the like
---@field parent? unsync.TaskInfo  who started it, if that still lives
---@field cancelled? true  it has been asked to stop
---@field depth integer  0 for one without a parent
---@field future? unsync.Future

---All live tasks and calls of this state, each followed by those it started.
---@return unsync.TaskInfo[]
function unsync.tasks() end

---@class unsync.WaitLink
---@field kind? string  "io", "thread", "cpu" or "promise"
---@field name? string
---@field state? string
---@field age? number  seconds
---@field where? string  `file:line` of the wait
---@field spawned? string  `file:line` of where it was started
---@field waits_for? string
---@field worker? string  "thread" or "process", with `worker_id`
---@field worker_id? integer
---@field cycle? true  of the last link: it waits for the first
---@field text? string  of a link in another state, instead of all that: its lines

---Why a future has not settled: a list of what waits for what, from the future itself down to the reason. `tostring`
---makes lines of it. A thread in which the chain goes on is asked, for a tenth of a second at most.
---@param future unsync.Future
---@return unsync.WaitLink[]
function unsync.why(future) end

---## Time

---Runs `fn` here and returns what it returns; if that takes longer, cancels what it waits for and raises `timeout`.
---@param seconds number
---@param fn function
---@param ... any  its arguments
---@return any ...
function unsync.timeout(seconds, fn, ...) end

---Runs `fn` here and returns what it returns; cancelling the caller does not reach its waits, and shows at the next
---one after it.
---@param fn function
---@param ... any  its arguments
---@return any ...
function unsync.shield(fn, ...) end

---The calling task sleeps: never shorter than that, and no other is held up.
---@param seconds number
function unsync.sleep(seconds) end

---Lets all others that are ready run first.
function unsync.yield() end

---Seconds on a clock that only goes forward.
---@return number
function unsync.now() end

---Iterates over ticks: the n-th comes `n * seconds` after the call, each step waits for one. Ticks that were missed
---are left out.
---@param seconds number
---@return fun(): integer
function unsync.every(seconds) end

---## Between tasks

---A queue with an end at which one sends and an end at which one receives. It can be sent to threads and processes,
---and is the same one there.
---@param capacity? integer  items that lie in it before a sender waits; default: 0, from hand to hand
---@return unsync.Channel
function unsync.channel(capacity) end

---`for v in ch` iterates until it is closed and empty, or an item is nil. `local ch <close>` closes it.
---@class unsync.Channel
---@operator call: any
local ch = {}

---Waits while it is full. Raises `closed`, and `unsendable` where it is shared and the item cannot cross.
---@param value any
function ch:send(value) end

---Waits while it is empty.
---@return any value  nil and "closed" when it is closed and empty
---@return string?
function ch:recv() end

---Never waits.
---@param value any
---@return boolean sent
---@return string? why  "full" or "closed"
function ch:try_send(value) end

---Never waits.
---@return boolean received
---@return any value  the item; or "empty" or "closed"
function ch:try_recv() end

---Iterates over a count and the items, nil among them, until it is closed and empty; each step waits.
---@return fun(): integer, any
function ch:items() end

---No more items: what is in it can be received. Whoever waits to send gets `closed`.
function ch:close() end

---Waits for whichever comes first: an item of a channel, the end of a future, room in a channel (`{send = ch, value =
---v}`), or `timeout = seconds`. Of several that are ready, the first in the list. Raises where the list is empty.
---@param cases table
---@return any source  the channel or future; nil and "timeout" on the limit
---@return any ...  the item, or the results; of a failed future nothing: its `await` raises
function unsync.select(cases) end

---@param n integer  permits
---@return unsync.Semaphore
function unsync.semaphore(n) end

---@class unsync.Semaphore
local semaphore = {}

---Takes a permit; waits until there is one.
---@return unsync.Semaphore  `local _ <close> = semaphore:acquire()` gives it back at the end of the block
function semaphore:acquire() end

---Never waits.
---@return boolean  whether there was one
function semaphore:try_acquire() end

---Gives a permit back. Raises where more come back than went out.
function semaphore:release() end

---@return unsync.Mutex
function unsync.mutex() end

---@class unsync.Mutex
local mutex = {}

---Waits until it is free. Raises `abandoned` where its owner has ended without letting go.
---@return unsync.Mutex  `local _ <close> = mutex:lock()` lets go at the end of the block
function mutex:lock() end

---Never waits.
---@return boolean  whether it was free
function mutex:try_lock() end

---Lets go. Raises where the running task is not the owner.
function mutex:unlock() end

---@return unsync.Event
function unsync.event() end

---@class unsync.Event
local event = {}

---Lets all go on that wait, and that will, until it is cleared.
function event:set() end

---From now on `wait` waits.
function event:clear() end

---Waits until it is set.
function event:wait() end

---@return boolean
function event:is_set() end

---@param n integer
---@return unsync.Barrier
function unsync.barrier(n) end

---@class unsync.Barrier
local barrier = {}

---Waits until n tasks do, and they all go on; again and again. One that is cancelled steps back.
function barrier:wait() end

---@param n integer
---@param seconds number
---@return unsync.Rate
function unsync.rate(n, seconds) end

---@class unsync.Rate
local rate = {}

---Waits so that in any `seconds` at most n are granted.
function rate:acquire() end

---## HTTP

---`require "unsync.http"`: requests, any number at once. An answer with any status is an answer; a request fails
---where no whole answer came, with a code: a system call's own name, `ENOTFOUND`, `timeout`, `tls`, `EOF`,
---`redirects`, `limit` or `EPROTO`. None of the functions waits: they return a future of the answer.
---@class unsync.http
---@field Headers table  the metatable of an answer's headers
local http = {}

---@class unsync.HttpOptions
---@field method? string  of `http.request` alone; default: GET, or POST where there is a body
---@field headers? table<string, string|number|string[]>  a list of values is sent as so many headers
---@field body? string  sent as it is
---@field form? table<string, any>  a body of form fields, URL-encoded
---@field query? table<string, any>  appended to the URL
---@field timeout? number  seconds from the call to the last byte; default: none
---@field connect_timeout? number  seconds; default: 30
---@field redirects? boolean|integer  whether they are followed, or how many; default: true, which is 10
---@field verify? boolean  whether the server must prove who it is; default: true
---@field ca_file? string  a PEM file of authorities to trust instead of the system's
---@field proxy? string  its URL, "" is none; default: what the environment says
---@field compressed? boolean  whether to ask for a compressed body, which is unpacked; default: true
---@field max_body? integer  bytes, unpacked; a longer one fails the request with `limit`; default: none

---@class unsync.HttpRequest: unsync.HttpOptions
---@field url string

---What a request's future is done with.
---@class unsync.HttpResponse
---@field status integer
---@field reason? string  the status in words, where the server sent any
---@field headers table<string, string>  looked up in any spelling; the values of a repeated one joined by ", "
---@field header_list string[][]  {name, value} of each header, as they came
---@field body string
---@field url string  the one that answered
---@field redirects integer  how many were followed
---@field elapsed number  seconds

---A future of the answer.
---@param url string
---@param opts? unsync.HttpOptions
---@return unsync.Future  of an `unsync.HttpResponse`
function http.get(url, opts) end

---A future of the answer, without a body.
---@param url string
---@param opts? unsync.HttpOptions
---@return unsync.Future
function http.head(url, opts) end

---A future of the answer.
---@param url string
---@param opts? unsync.HttpOptions
---@return unsync.Future
function http.delete(url, opts) end

---A future of the answer.
---@param url string
---@param body? string
---@param opts? unsync.HttpOptions
---@return unsync.Future
function http.post(url, body, opts) end

---A future of the answer.
---@param url string
---@param body? string
---@param opts? unsync.HttpOptions
---@return unsync.Future
function http.put(url, body, opts) end

---A future of the answer.
---@param url string
---@param body? string
---@param opts? unsync.HttpOptions
---@return unsync.Future
function http.patch(url, body, opts) end

---A future of the answer; everything in one table.
---@param request unsync.HttpRequest
---@return unsync.Future
function http.request(request) end

---## Inspecting

---`require "unsync.inspect"`: what a program does, as texts.
---@class unsync.inspect
local inspect = {}

---@class unsync.TreeOptions
---@field stacks? boolean  the whole Lua stack of each task of this state too

---The tree of live tasks and calls of this state, how much is queued, and the workers with what they run.
---@param options? unsync.TreeOptions
---@return string  ends with a newline
function inspect.tree(options) end

---One task or call in a line.
---@param task unsync.TaskInfo
---@return string
function inspect.describe(task) end

---The same as `unsync.why`.
---@param future unsync.Future
---@return unsync.WaitLink[]
function inspect.why(future) end

---## Testing

---`require "unsync.testing"`: what a spec needs to make concurrency repeatable.
---@class unsync.testing
---@field Gate table  the metatable of gates
local testing = {}

---@class unsync.TestClockOptions
---@field autojump? boolean  when every task waits and nothing is in flight elsewhere, jump to the next deadline

---Stops the time of this state until the clock is closed; one at a time. Sleeps, timeouts, ticks and rates go by it.
---@param options? unsync.TestClockOptions
---@return unsync.TestClock  to be closed: `local clock <close> = testing.clock()`
function testing.clock(options) end

---@class unsync.TestClock
local clock = {}

---Lets so much time pass, deadline by deadline; waits until it has.
---@param seconds number
function clock:advance(seconds) end

---Seconds that have passed on it.
---@return number
function clock:now() end

---Whether it jumps of its own accord; with a value, from now on.
---@param on? boolean
---@return boolean  what was so before
function clock:autojump(on) end

---Time runs on by itself, from where it stands.
function clock:close() end

---Orders what is ready at the same time by lot, until it is closed.
---@param seed? integer  nil: as they come
---@return unsync.Shuffle
function testing.shuffle(seed) end

---@class unsync.Shuffle
local shuffle = {}

---Tasks run as they become ready again.
function shuffle:close() end

---@class unsync.InlineOptions
---@field thread? boolean  default: false
---@field cpu? boolean  default: false

---Keeps calls to workers on the caller's own loop, until it is closed. Copies are as strict as before.
---@param options? unsync.InlineOptions  default: both
---@return unsync.Inline
function testing.inline(options) end

---@class unsync.Inline
local inline = {}

---Calls run again where they ran before.
function inline:close() end

---A gate that is shut: whoever comes to it waits until it is opened. It may be sent to workers.
---@return unsync.Gate
function testing.gate() end

---@class unsync.Gate
local gate = {}

---Waits until it is open.
---@return any ...  what it was opened with
function gate:wait() end

---Opens it, for good.
---@param ... any  what `wait` returns
---@return boolean  whether it was shut
function gate:open(...) end

---Waits until somebody has come to it.
function gate:reached() end

---@return boolean
function gate:is_open() end

---A row of steps, numbered from 0, each for one task to take. `seq(n)` waits until all before n have been done, and
---the step is done with that; `seq(n, fn, ...)` when `fn` has ended, whose results it returns.
---@return fun(n: integer, fn?: function, ...: any): any
function testing.sequencer() end

---Calls `fn`, which must fail with that code, and returns the error; raises where there was none, or another. Waits
---for a future that `fn` returns.
---@param code string|nil  nil: any error
---@param fn function
---@param ... any  its arguments
---@return any err
function testing.fails(code, fn, ...) end

---Under `unsync test`: what is alive now is meant to outlive the test, and is no leak. Elsewhere it does nothing.
function testing.keep() end

return unsync
