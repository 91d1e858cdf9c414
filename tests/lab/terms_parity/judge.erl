%% What Erlang really reads: the judge of tests/lab/terms_parity.rs. Runs inside a suite's tree, with the release's applications
%% on the code path.
%%
%% For every file in the folder, a line for each reader of the release that there is: what it read, in a form in which equal
%% terms are equal texts, or the line of its error.
%%   consult      file:consult/1: advanced.config before 3.9.21 and 3.10.6
%%   expression   rabbit_prelaunch_file:consult_file/1: advanced.config since, an expression that is evaluated
%%   sequence     rabbit_file:read_term_file/1: enabled_plugins
%%   overlay      what rabbit_prelaunch_conf makes of it: cuttlefish_advanced:overlay/2, then settings of applications
-module(judge).
-export([main/1]).
-compile(nowarn_deprecated_catch).

main([Folder]) ->
    catch logger:set_primary_config(level, none),
    {module, rabbit_file} = code:ensure_loaded(rabbit_file),
    Advanced = case code:ensure_loaded(rabbit_prelaunch_file) of
                   {module, M} -> {"expression", fun(F) -> M:consult_file(F) end};
                   _ -> {"consult", fun file:consult/1}
               end,
    {ok, Names} = file:list_dir(Folder),
    lists:foreach(fun(Name) ->
        File = filename:join(Folder, Name),
        io:format("case ~s~n", [Name]),
        report("consult", fun file:consult/1, File),
        {Kind, Read} = Advanced,
        [report(Kind, Read, File) || Kind =/= "consult"],
        report("sequence", fun rabbit_file:read_term_file/1, File),
        io:format("overlay ~s~n", [limited(fun() -> overlay(Read(File)) end)]),
        io:format("place ~s~n", [limited(fun() -> position(File) end)])
    end, lists:sort(Names)),
    io:format("otp ~s~n", [erlang:system_info(otp_release)]),
    halt(0).

report(Kind, Read, File) ->
    io:format("~s ~s~n", [Kind, limited(fun() -> outcome(Read(File)) end)]).

%% In a process of its own: an expression may do anything.
limited(Fun) ->
    {Pid, Ref} = spawn_monitor(fun() -> exit({done, try Fun() catch _:R -> ["crash ", place(R)] end}) end),
    receive
        {'DOWN', Ref, _, _, {done, Text}} -> Text;
        {'DOWN', Ref, _, _, _} -> "crash 0"
    after 3000 ->
        exit(Pid, kill),
        receive {'DOWN', Ref, _, _, _} -> ok end,
        "crash 0"
    end.

outcome({ok, Terms}) -> ["ok ", lists:join(" ", [canon(T) || T <- Terms])];
outcome(Error) -> ["error ", place(Error)].

%% Line and column of the error in one term in Latin-1, which the readers do not tell.
position(File) ->
    {ok, Binary} = file:read_file(File),
    Location = case erl_scan:string(binary_to_list(Binary), {1, 1}) of
        {error, {L, _, _}, _} -> L;
        {ok, Tokens, _} ->
            case erl_parse:parse_exprs(Tokens) of
                {error, {L, _, _}} -> L;
                {ok, _} -> none
            end
    end,
    case Location of {Line, Column} -> io_lib:format("~w:~w", [Line, Column]); _ -> "none" end.

%% The first line number in an error.
place({Line, Module, _}) when is_integer(Line), is_atom(Module) -> integer_to_list(Line);
place({{Line, _}, Module, _}) when is_integer(Line), is_atom(Module) -> integer_to_list(Line);
place(Tuple) when is_tuple(Tuple) -> first([place(E) || E <- tuple_to_list(Tuple)]);
place(_) -> "0".

first(Places) ->
    case [P || P <- Places, P =/= "0"] of [P | _] -> P; [] -> "0" end.

overlay({ok, [Term]}) ->
    Config = cuttlefish_advanced:overlay([], Term),
    All = lists:append([[["{", canon(A), ",", canon(K), ",", canon(V), "}"] || {K, V} <- settings(A, Vars)] || {A, Vars} <- Config]),
    ["ok ", lists:join(" ", lists:sort([lists:flatten(S) || S <- All]))];
overlay({ok, _}) -> "error 0";
overlay(Error) -> outcome(Error).

settings(_, Vars) ->
    true = lists:all(fun({_, _}) -> true; (_) -> false end, Vars),
    Vars.

canon(A) when is_atom(A) -> ["a", hex(unicode:characters_to_binary(atom_to_list(A)))];
canon(I) when is_integer(I) -> integer_to_list(I);
canon(F) when is_float(F), F == 0 -> "f0000000000000000"; % older releases forget the sign
canon(F) when is_float(F) -> ["f", hex(<<F:64/float>>)];
canon(B) when is_binary(B) -> ["b", hex(B)];
canon(B) when is_bitstring(B) -> "?";
canon(T) when is_tuple(T) -> ["{", lists:join(",", [canon(E) || E <- tuple_to_list(T)]), "}"];
canon(M) when is_map(M) ->
    Pairs = [lists:flatten([canon(K), ">", canon(V)]) || {K, V} <- maps:to_list(M)],
    ["#", lists:join(",", lists:sort(Pairs)), ";"];
canon(L) when is_list(L) -> ["[", list(L)];
canon(_) -> "?".

list([]) -> "]";
list([E]) -> [canon(E), "]"];
list([E | Rest]) when is_list(Rest) -> [canon(E), ",", list(Rest)];
list([E | Tail]) -> [canon(E), "|", canon(Tail), "]"].

hex(Bytes) -> [io_lib:format("~2.16.0b", [B]) || <<B>> <= Bytes].
