%% What the broker's own parser makes of configuration directories: the judge of tests/lab/conf_parity.rs.
%%
%% Run inside a broker host's tree with the plugins directory on the code path. Reads commands from standard input, a line
%% each, and answers each with one line of JSON behind `@@`:
%%
%%   hurry             no suggestions for unknown names: they cost seconds for each and decide nothing
%%   mappings          every mapping of the schemas, one line each, then `@@null`
%%   check DIR         the verdict on DIR, laid out as /etc/rabbitmq
%%
%% The steps are those of rabbit_prelaunch_conf: files (main or classic, conf.d, advanced), cuttlefish_conf, cuttlefish_generator,
%% advanced overlay, application environment, encrypted values. Where cuttlefish stops, the settings that it blames are taken
%% away and it is asked again, so that one answer holds the blame of all phases: `phase` and `errors` are the broker's own
%% answer, `later` is what it would have said next.
-module(oracle).
-export([main/1]).
-compile(nowarn_deprecated_catch).

main(PluginsPath) ->
    logger:set_primary_config(level, none),
    _ = code:ensure_loaded(rabbit_prelaunch_conf),
    case cuttlefish_schema:files(schemas(PluginsPath)) of
        {errorlist, Errors} ->
            answer({[{error, text(Errors)}]});
        Schema ->
            Base = flat(cuttlefish_generator:map(Schema, [])),
            answer({[{ready, true}]}),
            loop(Schema, Base)
    end,
    halt().

loop(Schema, Base) ->
    case io:get_line("") of
        eof -> ok;
        "hurry\n" ->
            answer(hurry()),
            loop(Schema, Base);
        "mappings\n" ->
            lists:foreach(fun(M) -> answer(mapping(M, Schema)) end, element(2, Schema)),
            answer(null),
            loop(Schema, Base);
        "check " ++ Line ->
            answer(bounded(fun() -> verdict(string:trim(Line), Schema, Base) end)),
            loop(Schema, Base)
    end.

%% Files that include themselves are read until the memory is full: a minute and 400 MB must do.
bounded(Fun) ->
    Limit = #{size => 50000000, kill => true, error_logger => false},
    {Pid, Ref} = spawn_opt(fun() -> exit({answer, Fun()}) end, [monitor, {max_heap_size, Limit}]),
    receive
        {'DOWN', Ref, process, Pid, {answer, Answer}} -> Answer;
        {'DOWN', Ref, process, Pid, _} -> {[{phase, text(endless)}, {errors, []}]}
    after 60000 ->
        exit(Pid, kill),
        {[{phase, text(endless)}, {errors, []}]}
    end.

%% The distance between two names, by which suggestions are chosen, becomes 0.
hurry() ->
    {ok, Beam, _} = erl_prim_loader:get_file(code:which(cuttlefish_util)),
    {ok, {_, [{abstract_code, {_, Forms}}]}} = beam_lib:chunks(Beam, [abstract_code]),
    Zero = {clause, 1, [{var, 1, '_'}, {var, 1, '_'}], [], [{integer, 1, 0}]},
    Quick = [case F of
                 {function, Anno, levenshtein, 2, _} -> {function, Anno, levenshtein, 2, [Zero]};
                 _ -> F
             end || F <- Forms],
    {ok, Module, Code} = compile:forms(Quick),
    {module, Module} = code:load_binary(Module, "cuttlefish_util", Code),
    true.

%% ------------------------------------------------------------------- schemas

%% The schema files that this release loads: it is asked where it can be (since 3.11).
schemas(PluginsPath) ->
    case erlang:function_exported(rabbit_prelaunch_conf, find_cuttlefish_schemas, 1) of
        true -> rabbit_prelaunch_conf:find_cuttlefish_schemas(#{os_type => {unix, linux}, plugins_path => PluginsPath});
        false -> lists:sort(lists:append([schemas_of(App) || App <- apps(PluginsPath)]))
    end.

apps(PluginsPath) ->
    Files = lists:append([element(2, file:list_dir(Dir)) || Dir <- string:lexemes(PluginsPath, ":")]),
    lists:usort([list_to_atom(hd(string:split(filename:basename(File, ".ez"), "-"))) || File <- Files]).

schemas_of(App) ->
    _ = application:load(App),
    Files = case code:priv_dir(App) of
        {error, bad_name} -> [];
        Priv ->
            Dir = filename:join(Priv, "schema"),
            case erl_prim_loader:list_dir(Dir) of
                {ok, Names} -> [filename:join(Dir, Name) || [First | _] = Name <- Names, First =/= $.];
                error -> []
            end
    end,
    _ = application:unload(App),
    Files.

mapping(M, {Translations, _, _}) ->
    Path = cuttlefish_mapping:mapping(M),
    {[{key, text(string:join(cuttlefish_mapping:variable(M), "."))},
      {path, text(Path)},
      {datatypes, [text(io_lib:format("~0tp", [D])) || D <- cuttlefish_mapping:datatype(M)]},
      {validators, [text(V) || V <- cuttlefish_mapping:validators(M)]},
      {aliases, [text(string:join(A, ".")) || A <- former(M)]},
      {translated, lists:any(fun(T) -> cuttlefish_translation:mapping(T) =:= Path end, Translations)}]}.

%% Former names, as words; since cuttlefish 3.8.
former(M) ->
    case erlang:function_exported(cuttlefish_mapping, aliases, 1) of
        true -> [if is_integer(hd(A)) -> cuttlefish_variable:tokenize(A); true -> A end || A <- cuttlefish_mapping:aliases(M)];
        false -> []
    end.

%% ------------------------------------------------------------------- one directory

verdict(Dir, Schema, Base) ->
    Start = erlang:monotonic_time(microsecond),
    {Answer, Conf} = try
        {Files, Advanced} = files(Dir),
        {steps(Files, Advanced, Schema, Base), parsed(Files)}
    catch
        Class:Reason -> {{[{phase, text(crash)}, {errors, [error_of(crash, {Class, Reason}, [], Schema)]}]}, null}
    end,
    {Fields} = Answer,
    {Fields ++ [{settings, Conf}, {us, erlang:monotonic_time(microsecond) - Start}]}.

%% rabbit_prelaunch_conf:setup/1 for a directory without environment variables.
files(Dir) ->
    More = lists:sort([F || F <- filelib:wildcard(filename:join(Dir, "conf.d/*.conf")), filelib:is_regular(F)]),
    Advanced = regular(filename:join(Dir, "advanced.config")),
    Classic = regular(filename:join(Dir, "rabbitmq.config")),
    Main = regular(filename:join(Dir, "rabbitmq.conf")),
    case {Classic, Main} of
        {undefined, undefined} -> {More, Advanced};
        {undefined, _} -> {[Main | More], Advanced};
        _ -> {More, Classic}
    end.

regular(File) ->
    case filelib:is_regular(File) of
        true -> File;
        false -> undefined
    end.

steps([], undefined, _, _) ->
    {[{phase, null}, {errors, []}]};
steps(Files, Advanced, Schema, Base) ->
    case parse(Files) of
        {error, Errors} ->
            {[{phase, text(parse)}, {errors, Errors}]};
        {ok, Conf} ->
            {Env, [First | Later]} = blame(Conf, Schema, []),
            {Phase, Errors} = case First of
                {none, _} -> applied(Env, Advanced, Conf, Schema);
                _ -> First
            end,
            {[{phase, if Phase =:= none -> null; true -> text(Phase) end},
              {errors, Errors},
              {later, lists:append([E || {_, E} <- Later])},
              {stuck, Env =:= stuck},
              {env, if Phase =:= none -> [text(io_lib:format("~0tp", [X])) || X <- flat(Env) -- Base]; true -> null end}]}
    end.

parse(Files) ->
    try cuttlefish_conf:files(Files) of
        {errorlist, Errors} -> {error, [error_of(parse, E, [], undefined) || E <- Errors]};
        Conf -> {ok, Conf}
    catch
        Class:Reason -> {error, [error_of(parse, {Class, Reason}, [], undefined)]}
    end.

parsed(Files) ->
    case parse(Files) of
        {ok, Conf} -> {[{text(string:join(K, ".")), text(V)} || {K, V} <- lists:reverse(Conf)]};
        _ -> null
    end.

%% What the phases blame, one after the other: {Environment | mended | stuck, [{Phase, Errors}]}, the first as the broker would say
%% it. Stuck: what is left cannot be mended by taking settings away.
blame(Conf, Schema, Acc) ->
    case catch cuttlefish_generator:map(Schema, Conf) of
        {error, Phase, {errorlist, Es}} ->
            Errors = [error_of(Phase, E, Conf, Schema) || E <- Es],
            Keys = lists:append([Keys || {[_, {keys, Keys} | _]} <- Errors]),
            Left = [S || {K, _} = S <- Conf, not lists:member(text(string:join(K, ".")), Keys)],
            case length(Left) < length(Conf) of
                true -> blame(Left, Schema, [{Phase, Errors} | Acc]);
                false -> {stuck, lists:reverse([{Phase, Errors} | Acc])}
            end;
        {'EXIT', Reason} ->
            {stuck, lists:reverse([{crash, [error_of(crash, Reason, [], Schema)]} | Acc])};
        Env when Acc =:= [] ->
            {proplists:delete(vm_args, Env), [{none, []}]};
        _ ->
            {mended, lists:reverse(Acc)}
    end.

%% The rest of rabbit_prelaunch_conf: advanced.config, environment, encrypted values. Leaves no trace.
applied(Env, Advanced, Conf, Schema) ->
    case overlay(Env, Advanced) of
        {error, Reason} -> {advanced, [error_of(advanced, Reason, Conf, Schema)]};
        Config ->
            Set = [{App, K, V} || {App, KVs} <- Config, {K, V} <- KVs],
            Old = [{App, K, application:get_env(App, K)} || {App, K, _} <- Set],
            try
                [ok = application:set_env(App, K, V, [{persistent, true}]) || {App, K, V} <- Set],
                ok = rabbit_prelaunch_conf:decrypt_config([App || {App, _} <- Config]),
                {none, []}
            catch
                Class:Reason -> {decrypt, [error_of(decrypt, {Class, Reason}, Conf, Schema)]}
            after
                [case V of
                     undefined -> application:unset_env(App, K, [{persistent, true}]);
                     {ok, Was} -> application:set_env(App, K, Was, [{persistent, true}])
                 end || {App, K, V} <- Old]
            end
    end.

overlay(Env, undefined) -> Env;
overlay(Env, File) ->
    case consult(File) of
        {ok, [Terms]} -> cuttlefish_advanced:overlay(Env, Terms);
        Other -> {error, Other}
    end.

consult(File) ->
    case code:ensure_loaded(rabbit_prelaunch_file) of
        {module, _} -> rabbit_prelaunch_file:consult_file(File);
        _ -> file:consult(File)
    end.

%% ------------------------------------------------------------------- errors

%% {tag, keys, file, line, path, text}
error_of(Phase, Error, Conf, Schema) ->
    {Tag, Keys, Path} = blamed(Phase, Error, Conf, Schema),
    {File, Line} = place(Error),
    {[{tag, text(Tag)}, {keys, Keys}, {path, Path}, {file, File}, {line, Line}, {text, text(shown(Error))}]}.

blamed(_, {error, Error}, Conf, Schema) -> blamed(x, Error, Conf, Schema);
blamed(_, {Tag, Var}, Conf, Schema) when Tag =:= unknown_variable; Tag =:= transform_type; Tag =:= mapping_not_found ->
    {Tag, [spelt(Var, Conf, Schema)], null};
blamed(_, {Tag, {Var, _}}, Conf, Schema)
  when Tag =:= validation; Tag =:= mapping_multiple; Tag =:= substitution_missing_config ->
    {Tag, [spelt(Var, Conf, Schema)], null};
blamed(_, {circular_rhs, History}, _, _) -> {circular_rhs, [key(string:join(K, ".")) || K <- lists:usort(History)], null};
blamed(_, {Tag, {Path, _}}, Conf, {_, Mappings, _})
  when Tag =:= translation_missing_setting; Tag =:= translation_invalid_configuration; Tag =:= translation_unknown_error;
       Tag =:= translation_arity ->
    Vars = [cuttlefish_mapping:variable(M) || M <- Mappings, cuttlefish_mapping:mapping(M) =:= Path],
    %% Some translations read what stands below their own name, although the schema maps it elsewhere.
    [_ | Below] = string:lexemes(Path, "."),
    Read = fun(K) -> lists:prefix(Below, K) orelse lists:any(fun(V) -> fits(K, V) end, Vars) end,
    {Tag, [key(string:join(K, ".")) || {K, _} <- Conf, Read(K)], text(Path)};
blamed(_, Error, _, _) when is_tuple(Error), is_atom(element(1, Error)) -> {element(1, Error), [], null};
blamed(Phase, _, _, _) -> {Phase, [], null}.

%% The parser knows settings by their present names; the files may use former ones.
spelt(Var, Conf, {_, Mappings, _}) ->
    Key = key(Var),
    case lists:member(Key, [key(string:join(K, ".")) || {K, _} <- Conf]) of
        true -> Key;
        false ->
            Words = cuttlefish_variable:tokenize(lists:flatten(Var)),
            Former = [key(string:join(K, ".")) || M <- Mappings, fits(Words, cuttlefish_mapping:variable(M)),
                                                  Alias <- former(M), {K, _} <- Conf, fits(K, Alias)],
            hd(Former ++ [Key])
    end.

fits(Key, Var) -> cuttlefish_variable:is_fuzzy_match(Key, Var).

%% Where a file could not be parsed.
place({error, E}) -> place(E);
place({in_file, {_, E}}) -> place(E);
place({conf_syntax, {File, {Line, _}}}) -> {text(File), Line};
place({file_open, {File, _}}) -> {text(File), null};
place(_) -> {null, null}.

shown(Error) ->
    try lists:flatten(cuttlefish_error:xlate(Error))
    catch _:_ -> lists:sublist(lists:flatten(io_lib:format("~0tp", [Error])), 400)
    end.

key(Var) -> text(string:replace(lists:flatten(Var), "\\", "", all)).

flat(Config) -> [{App, K, V} || {App, KVs} <- Config, is_list(KVs), App =/= vm_args, {K, V} <- KVs].

%% ------------------------------------------------------------------- JSON

%% Any text as characters; bytes that are not UTF-8 count as Latin-1.
text(Atom) when is_atom(Atom) -> {text, atom_to_list(Atom)};
text(Chars) ->
    case catch unicode:characters_to_list(Chars) of
        List when is_list(List) -> {text, List};
        _ ->
            case catch unicode:characters_to_list(iolist_to_binary(Chars), latin1) of
                List when is_list(List) -> {text, List};
                _ -> {text, lists:flatten(io_lib:format("~0p", [Chars]))}
            end
    end.

answer(Json) -> io:put_chars(["@@", json(Json), "\n"]).

json(null) -> "null";
json(true) -> "true";
json(false) -> "false";
json(Number) when is_integer(Number) -> integer_to_list(Number);
json({text, Chars}) -> [$", [char(C) || C <- Chars], $"];
json({Fields}) -> ["{", lists:join(",", [[json(name(N)), ":", json(V)] || {N, V} <- Fields]), "}"];
json(List) when is_list(List) -> ["[", lists:join(",", [json(V) || V <- List]), "]"].

name({text, _} = Text) -> Text;
name(Atom) -> {text, atom_to_list(Atom)}.

char(C) when C =:= $"; C =:= $\\ -> [$\\, C];
char(C) when C >= 16#20, C < 16#7f -> C;
char(C) when C >= 16#10000 ->
    D = C - 16#10000,
    io_lib:format("\\u~4.16.0b\\u~4.16.0b", [16#d800 + (D bsr 10), 16#dc00 + (D band 16#3ff)]);
char(C) -> io_lib:format("\\u~4.16.0b", [C]).
